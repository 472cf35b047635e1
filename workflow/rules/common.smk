import re
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

# Before the first import of either: whatever stands first on PYTHONPATH may have the same names.
if others := subprocess.run(
    [sys.executable, "-P", f"{workflow.basedir}/workflow/origin.py", workflow.basedir],
    stdout=subprocess.PIPE,
    encoding="utf-8",
    errors="replace",
    check=True,
).stdout.strip():
    raise WorkflowError(others)

from pipeline.baselines import RECONSTRUCTED
from pipeline.tomography import backend
from pipeline.jobs import memory
from models import memory as model_memory
from models.channels import CHANNELS, IMAGES
from models.evaluation import catalogue
from models.registry import METHODS
from models.configuration import schema
from models.sections import frozen_of
from pipeline.jobs.used_code import code_hash
from pipeline.jobs.config import check, check_images, check_scans, files_of_scan
from pipeline.scans.registry import files_of, reader_of
from pipeline.sources.base import LABELS
from pipeline.sources.registry import SOURCES, facts
from pipeline.storage.errors import InputError
from pipeline.jobs.doses import doses_of, folder, simulated, with_osem_input
from pipeline.jobs.experiment import (
    deciding,
    measured_by,
    models_of,
    replaced,
    replicates,
    sampling_of,
    sees_counts,
)
from pipeline.tomography.geometry import field_of_view_mm, grid_from
from pipeline.tomography.scanners import scanner_from

try:
    SUBJECTS = check(config, schema())
    check_scans(config["scans"])
    PROJECTOR = backend.resolve(config["projector"])
except InputError as error:
    raise WorkflowError(str(error))

MODELS = models_of(config)
EVALUATED = config["evaluation"]["models"]
UNCERTAINTY = config["evaluation"]["uncertainty"]
# Those that see an image.
IMPROVING = [
    name
    for name in EVALUATED
    if any(CHANNELS[s].scale == IMAGES for s in MODELS[name].settings["conditioning"])
]
# What has a file of reconstructions: baselines without a network, then models.
COMPARED = [*RECONSTRUCTED, *EVALUATED]
SWEEPS = config["evaluation"]["sweeps"]

# Folders of the files of the doses that networks see; figures and sweeps are of the first.
DOSES = doses_of(config)
SHOWN = next(iter(DOSES))
# Whose way through the pipeline is drawn.
TOURED = next(name for name, subject in SUBJECTS.items() if subject.split == "test")
ALL_DOSES = {"": 1.0} | DOSES
# What figures compare with, and tables first.
REFERENCE = catalogue.reference_of(config["training"]["target"])

SCANS = config["scans"]
SOURCE = facts(config["source"])
DATA = f"data/{config['name']}"
# Labels are the same in every experiment; of own images each may have others of the same names.
FETCHED = (
    f"data/labels/{config['source']}" if SOURCE.gives == LABELS else f"{DATA}/images"
)
try:
    check_images(
        config, [s for s in SUBJECTS if not Path(f"{FETCHED}/{s}.h5").exists()]
    )
except InputError as error:
    raise WorkflowError(str(error))
RESULTS = f"results/{config['name']}"
LOGS = f"logs/{config['name']}"


LOWER = [of for of in DOSES if of]
# Folder of what test subjects have with lesions, before that of the dose.
LESIONS = "lesions/"


def any_of(names):
    """Pattern of some names, of which there may be none."""
    return "|".join(map(re.escape, names)) or "none"


wildcard_constraints:
    subject=r"subject\d+",
    model=any_of(MODELS),
    classical=any_of(RECONSTRUCTED),
    sweep=any_of(SWEEPS),
    scan=any_of(SCANS),
    # All counts, of which the reference is made in any case, or a dose.
    dose=f"({any_of(LOWER)})?",
    lower=any_of(LOWER),
    # A set of slices and a dose.
    set=f"({LESIONS})?",
    of=f"({LESIONS})?({any_of(LOWER)})?",


def of_split(*splits):
    """Subjects of some splits, in the table's order."""
    return [name for name, subject in SUBJECTS.items() if subject.split in splits]


def shards(*splits, doses=DOSES):
    """Shards of the subjects of some splits, dose by dose."""
    return expand(
        f"{DATA}/shards/{{of}}{{subject}}.h5", of=doses, subject=of_split(*splits)
    )


def set_of(of):
    """Folder of the set of slices in that of a set and dose."""
    return LESIONS if of.startswith(LESIONS) else ""


def dose_of(of):
    """Folder of the dose in that of a set and dose."""
    return of.removeprefix(LESIONS)


def spheres():
    """Settings of the lesions of a volume."""
    names = ("per_volume", "per_slice", "diameter_mm", "hot", "cold")
    return {name: config["lesions"][name] for name in names}


def spheres_of(subject):
    """Settings of the lesions in a subject's own slices, which training subjects may have."""
    training = SUBJECTS[subject].split == "train" and config["lesions"]["training"]
    return spheres() if training else None


def osem_input(wildcards):
    """OSEM image of what networks see, where a shard has it."""
    if with_osem_input(config, dose_of(wildcards.of)):
        return f"{DATA}/osem_input/{wildcards.of}{wildcards.subject}.h5"
    return []


def system_matrix(grid):
    """Input of rules that project: the matrix of a grid, or nothing where none is needed."""
    return f"{DATA}/system_matrix/{grid}.h5" if PROJECTOR == "sparse" else []


def several_samples(model):
    """Whether a model gives several samples of a slice, and so their deviation."""
    own = MODELS[model]
    return "timesteps" in own.settings and sampling_of(config, own)["samples"] > 1


def simulation_grid():
    """Name of the grid on which the measurement is simulated."""
    return (
        "simulation" if config["simulation"]["oversampling"] > 1 else "reconstruction"
    )


def finer(grid):
    """Pixels a side of a grid in one of the reconstruction's."""
    return config["simulation"]["oversampling"] if grid == "simulation" else 1


def weights_of(model):
    """Weights of a model, by the name of the one that was trained."""
    return f"{RESULTS}/weights/{MODELS[model].trained}.safetensors"


def record_of(model):
    """What the training of a model's weights used, beside them."""
    return f"{RESULTS}/weights/{MODELS[model].trained}.yaml"


def frozen_by(model):
    """Model whose trained network a model uses, or None."""
    return frozen_of(MODELS[model].method, MODELS[model].settings)


def frozen_weights(wildcards):
    """Weights of the model whose trained network a model uses, or nothing."""
    frozen = frozen_by(wildcards.model)
    return weights_of(frozen) if frozen else []


def training_priority(wildcards):
    """Trainings that others wait for start first, and then the longest."""
    waiting = [
        model.settings["epochs"]
        for name, model in MODELS.items()
        if not model.weights and frozen_by(name) == wildcards.model
    ]
    return 10**6 * max(waiting, default=0) + MODELS[wildcards.model].settings["epochs"]


def code_of(script, model, without=""):
    """Code that a script runs for a model: its method's and no other's, as a hash, and channels."""
    own = MODELS[model]
    used = [own, *(MODELS[name] for name in [frozen_by(model)] if name)]
    channels = [str(CHANNELS[name]) for name in own.settings["conditioning"]]
    methods = (METHODS[each.method] for each in used)
    return [code_hash(script, *methods, without=without), *channels]


def shown():
    """Test subjects whose slices are drawn: a slice of each is enough."""
    return of_split("test")[: len(config["evaluation"]["figure_positions"])]


def classical_settings(of):
    """Settings of what needs no network, at a dose."""
    return f"{RESULTS}/{of}classical_settings.json"


def reconstructions(models, subjects, doses=(SHOWN,)):
    """Reconstructions, one file a model, dose and subject."""
    return expand(
        f"{RESULTS}/reconstructions/{{model}}/{{of}}{{subject}}.h5",
        model=list(models),
        of=doses,
        subject=subjects,
    )


def metrics_of(split):
    """Metrics of the subjects of a split, one table a dose and subject."""
    return expand(
        f"{RESULTS}/metrics/{{of}}{{subject}}.csv.gz", of=DOSES, subject=of_split(split)
    )


def lesion_files(stage, dose=""):
    """Files of a stage of all test subjects with lesions, at a dose."""
    return expand(
        f"{DATA}/{stage}/{LESIONS}{{dose}}{{subject}}.h5",
        dose=[dose],
        subject=of_split("test"),
    )


def lesion_reconstructions(dose):
    """Reconstructions of test subjects with lesions, model by model."""
    return reconstructions(COMPARED, of_split("test"), [f"{LESIONS}{dose}"])


def lesion_metrics():
    """Tables of all lesions, one a dose."""
    return expand(f"{RESULTS}/metrics/{{dose}}lesions.csv.gz", dose=DOSES)


def lesion_curves():
    """Tables of lesions over settings of what needs no network, method by method."""
    return expand(
        f"{RESULTS}/lesion_curves/{SHOWN}{{classical}}_{{subject}}.csv",
        classical=RECONSTRUCTED,
        subject=of_split("test"),
    )


def with_lesions():
    """All that is made of lesions, and recorded: nothing without any."""
    if not config["lesions"]["per_volume"]:
        return []
    return [
        *(shard for dose in DOSES for shard in lesion_files("shards", dose)),
        *(image for dose in DOSES for image in lesion_reconstructions(dose)),
        *lesion_metrics(),
        *lesion_curves(),
        *expand(f"{RESULTS}/lesions.{{kind}}", kind=("csv", "md", "html")),
    ]


def training_logs():
    """Training logs of all trained models that anything asks for."""
    asked = {
        *EVALUATED,
        *(name for sweep in SWEEPS.values() for name in sweep["models"]),
    }
    asked |= set(map(frozen_by, asked)) - {None}
    trained = {MODELS[name].trained for name in asked}
    return {
        name: f"{RESULTS}/training/{name}.csv" for name in MODELS if name in trained
    }


def sweep_tables(sweep):
    """Tables of a sweep, one a model."""
    return expand(
        f"{RESULTS}/sweeps/{sweep}/{{model}}.csv", model=SWEEPS[sweep]["models"]
    )


def swept_weights(wildcards):
    """What a sweep reconstructs with: a model's kept checkpoints, or its final weights."""
    if wildcards.sweep == "epochs":
        return f"{RESULTS}/checkpoints/{MODELS[wildcards.model].trained}"
    return weights_of(wildcards.model)


def swept_shards(wildcards):
    """What a sweep reconstructs; test subjects serve for the figures of the paper alone."""
    return shards(
        "test" if wildcards.sweep == "epochs" else "validation", doses=[SHOWN]
    )


def rows(models):
    """Models by the row of a table or line of a figure, seeds together."""
    return replicates(MODELS[name] for name in models)


def job_threads():
    """CPU cores of a training or reconstruction; a cluster has no number of cores, but a limit."""
    asked, given = config["training"]["threads"], workflow.resource_settings
    most = given.cores or given.max_threads or asked
    if not most:
        raise WorkflowError(
            "training.threads: is 0 (all cores), and nobody says how many a job may have\n"
            "  -> call snakemake with --max-threads, or set training.threads"
        )
    return min(asked or most, most)


def gpus(count):
    """GPUs that a job takes; none where the configuration keeps to the CPU."""
    return 0 if config["training"]["device"] == "cpu" else count


def figures():
    """Figures that this configuration can draw."""
    return [
        "panel",
        "classical",
        "training",
        "regional_bias",
        *(["calibration"] if config["sampling"]["samples"] > 1 or calibrated() else []),
        *(["uncertainty"] if UNCERTAINTY else []),
        *(["lesions"] if config["lesions"]["per_volume"] else []),
        *(sweep for sweep, settings in SWEEPS.items() if settings["models"]),
    ]


def previews():
    """Contact sheets of one test subject."""
    return expand(
        f"{RESULTS}/previews/{{stage}}_{{subject}}.png",
        stage=("phantoms", f"{SHOWN}sinograms", f"{SHOWN}shards"),
        subject=of_split("test")[:1],
    )


def tour(*parts):
    """Pictures of a slice's way through the pipeline: of its data, or of its images."""
    stops = {
        "data": [
            *(["labels"] if SOURCE.gives == LABELS else []),
            *("activity", "slices", "sinogram"),
        ],
        "images": [
            *("fbp", "osem"),
            *(["osem_input"] if with_osem_input(config, SHOWN) else []),
            *RECONSTRUCTED,
            *("networks", "errors"),
            *(["compared"] if IMPROVING else []),
        ],
    }
    return [f"{RESULTS}/tour/{stop}.png" for part in parts for stop in stops[part]]


def final_outputs():
    """What `rule all` asks for."""
    return [
        *shards("train", "validation", "test"),
        f"{RESULTS}/metrics.csv.gz",
        f"{RESULTS}/table1.html",
        f"{RESULTS}/provenance.json",
        *with_lesions(),
        *expand(f"{RESULTS}/figures/{{figure}}.png", figure=figures()),
        *previews(),
        *tour("data", "images"),
    ]
