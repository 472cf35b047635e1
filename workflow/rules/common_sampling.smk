def with_counts(model, sweep=None):
    """Whether a model's samples see the measured counts, or those of any entry of a sweep."""
    entries = sweep["sampling"] if sweep else [{}]
    return any(
        sees_counts(MODELS[model], replaced(sampling_of(config, MODELS[model]), entry))
        for entry in entries
    )


def sinogram_of(wildcards):
    """Sinogram of a shard whose slices are sampled with their counts, or nothing."""
    path = f"{DATA}/sinograms/{wildcards.of}{wildcards.subject}.h5"
    return path if with_counts(wildcards.model) else []


def swept_sinograms(wildcards):
    """Sinograms of a sweep's shards, in their order, or nothing."""
    if not with_counts(wildcards.model, SWEEPS[wildcards.sweep]):
        return []
    paths = swept_shards(wildcards)
    return [path.replace(f"{DATA}/shards/", f"{DATA}/sinograms/") for path in paths]


def matrix_of(model, sweep=None):
    """System matrix of a model whose samples see the counts, or nothing."""
    return system_matrix("reconstruction") if with_counts(model, sweep) else []


def physics_of(model, sweep=None):
    """What models the counts that a model's samples see, or nothing."""
    return measured_by(config) if with_counts(model, sweep) else None


def consistency_of(model, sweep):
    """Consistency that entries of a sweep replace keys of, where any of them sees the counts."""
    own = sampling_of(config, MODELS[model])["consistency"]
    return own if with_counts(model, sweep) else None


def calibrated():
    """Evaluated models whose intervals are calibrated: those that give several samples."""
    return [model for model in EVALUATED if several_samples(model)]


def calibrating():
    """Validation subjects that calibrate: not more, as each is reconstructed with all samples."""
    return of_split("validation")[: model_memory.CALIBRATING]


def factors_of(models, doses):
    """Factors that calibrate the intervals of models, a file a model and dose."""
    return expand(f"{RESULTS}/calibration/{{of}}{{model}}.json", model=models, of=doses)
