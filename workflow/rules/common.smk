from pathlib import Path

from snakemake.exceptions import WorkflowError

from pipeline import projector
from pipeline.code import code_hash
from pipeline.config import check
from pipeline.errors import InputError

try:
    SUBJECTS = check(
        config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml"
    )
    PROJECTOR = projector.resolve(config["projector"])
except InputError as error:
    raise WorkflowError(str(error))

LABELS = f"data/labels/{config['source']}"
DATA = f"data/{config['name']}"
RESULTS = f"results/{config['name']}"
LOGS = f"logs/{config['name']}"


wildcard_constraints:
    subject=r"subject\d+",


def of_split(*splits):
    """Subjects of some splits, in the table's order."""
    return [name for name, subject in SUBJECTS.items() if subject.split in splits]


def shards(*splits):
    """Shards of the subjects of some splits."""
    return [f"{DATA}/shards/{subject}.h5" for subject in of_split(*splits)]


def system_matrix(grid):
    """Input of rules that project: the matrix of a grid, or nothing where none is needed."""
    return f"{DATA}/system_matrix/{grid}.h5" if PROJECTOR == "sparse" else []


def simulation_grid():
    """Name of the grid on which the measurement is simulated."""
    return (
        "simulation" if config["simulation"]["oversampling"] > 1 else "reconstruction"
    )


def weights_of(method):
    """Weights of a trained method; nothing for no method."""
    return f"{RESULTS}/weights/{method}.safetensors" if method else []


def reconstructions():
    """Input of rules that compare methods: each method's files, one a test subject."""
    return {
        method: [
            f"{RESULTS}/reconstructions/{method}/{subject}.h5"
            for subject in of_split("test")
        ]
        for method in config["methods"]
    }


def settings_of(rule, method):
    """Settings that one method's job depends on, and those of no other method."""
    sections = {
        "train": ("seed", "network", "training"),
        "reconstruct": ("seed", "network", "training", "sampling"),
    }
    settings = {section: config[section] for section in sections[rule]}
    return settings | {"methods": {method: config["methods"][method]}}


def final_outputs():
    """What `rule all` asks for."""
    return [
        *shards("train", "validation", "test"),
        f"{RESULTS}/metrics.csv",
        f"{RESULTS}/summary.html",
        f"{RESULTS}/figures/panel.png",
        f"{RESULTS}/figures/training.png",
        *expand(
            f"{RESULTS}/previews/{{stage}}_{{subject}}.png",
            stage=("phantoms", "sinograms", "shards"),
            subject=of_split("test")[:1],
        ),
    ]
