rule tour_data:
    input:
        labels=f"{FETCHED}/{TOURED}.h5" if SOURCE.gives == LABELS else [],
        phantom=f"{DATA}/phantoms/{TOURED}.h5",
        slices=f"{DATA}/slices/{TOURED}.h5",
        sinograms=[f"{DATA}/sinograms/{of}{TOURED}.h5" for of in sorted({"", SHOWN})],
        shard=f"{DATA}/shards/{SHOWN}{TOURED}.h5",
    output:
        [
            report(
                path,
                caption="../report/tour.rst",
                category="Tour",
                labels={"stop": Path(path).stem},
            )
            for path in tour("data")
        ],
    log:
        f"{LOGS}/tour_data.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.images(config),
    params:
        code=code_hash("tour_data.py"),
    script:
        "../scripts/tour_data.py"


# Without what the first half needs: whoever has deleted it need not make it again for new networks.
rule tour_images:
    input:
        shard=f"{DATA}/shards/{SHOWN}{TOURED}.h5",
        reconstructions=reconstructions([*RECONSTRUCTED, *rows(EVALUATED)], [TOURED]),
    output:
        [
            report(
                path,
                caption="../report/tour.rst",
                category="Tour",
                labels={"stop": Path(path).stem},
            )
            for path in tour("images")
        ],
    log:
        f"{LOGS}/tour_images.log",
    conda:
        "../envs/legopet.yaml"
    threads: 1
    resources:
        mem_mb=model_memory.images(config),
    params:
        models=[*RECONSTRUCTED, *rows(EVALUATED)],
        improving=IMPROVING,
        code=code_hash("tour_images.py"),
    script:
        "../scripts/tour_images.py"
