"""Adding a method, a metric, a source, a channel, a reader or a scanner touches one place.

Each is added to a copy of the project, as CONTRIBUTING.md says, and the workflow runs there.
"""

import filecmp
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from helpers.workflow import PROJECT, ROOT, SUBJECTS, copy_project, snakemake
from pipeline.storage import hdf5
from pipeline.storage.kinds import SCAN, SCAN_IMAGE

pytestmark = pytest.mark.dag

METHOD = '''
"""One convolution, and the least absolute error: a method that nobody needs."""

from dataclasses import dataclass

from torch import nn

from models.methods.base import Method, MethodSettings, Objective


@dataclass(frozen=True)
class ToySettings(MethodSettings):
    kernel: int


class Toy(Method):
    Settings = ToySettings

    def __init__(self, network, settings):
        channels = len(settings.conditioning)
        self.network = nn.Conv2d(channels, 1, settings.kernel, padding=settings.kernel // 2)

    def training_step(self, batch, draws):
        loss = (self.network(batch.inputs).float() - batch.image).abs().mean()
        yield Objective("network", {"loss": loss})

    def predict(self, inputs, keys, sampling, seed, correct=None):
        return self.network(inputs)
'''

METHOD_SETTINGS = """
Toy:
  description: One convolution.
  properties:
    kernel:
      description: Pixels along a side of the kernel.
      type: integer
      minimum: 1
      maximum: 9
"""

METHOD_SECTION = """
  Toy:
    conditioning: [sinogram]
    residual: false
    epochs: 3
    keep_every_epochs: 0
    batch_size: 4
    optimiser: adam
    learning_rate: 1.0e-2
    schedule: constant
    warmup_steps: 0
    betas: [0.9, 0.999]
    weight_decay: 0.0
    kernel: 5
"""

SOURCE = '''
"""Heads of ellipsoids."""

import numpy as np

from pipeline.sources.base import Facts
from pipeline.sources.labels import write_labels

SHAPE = (90, 100, 96)


def fetch(output, subject, config):
    z, y, x = (np.arange(n) - (n - 1) / 2 for n in SHAPE)
    wide = 0.7 + int(subject[-2:]) / 50  # no two subjects are the same
    radius = np.hypot(np.hypot(z[:, None, None] / 0.9, y[:, None]), x / wide)
    labels = np.select([radius < 25, radius < 36, radius < 45], [3, 2, 6]).astype(np.uint8)
    write_labels(output, labels, (2.0, 2.0, 2.0), source="toy", origin="here", subject=subject)


FACTS = Facts(shape=SHAPE, bytes_per_voxel=40)
'''

METRIC = """    Metric(
        *("largest_error", "largest error", "activity", 1, BOTH, ("image",), "lower"),
        always=("image",),
        tables=(TABLE1,),
    ),
)
"""

METRIC_FUNCTION = '''

def largest_error(compared, region):
    """Largest absolute error."""
    return abs(compared.of.activity - compared.reference_activity).max(axis=(1, 2))
'''

READER = '''
"""Sinograms as text: a line a view."""

from pathlib import Path

import numpy as np

from pipeline.scans.projections import Acquisition, Projections, Segment
from pipeline.scans.raw import sha256_of


def read(path, settings):
    plane = np.loadtxt(path, dtype=np.int64)
    return Projections(
        acquisition=Acquisition(patient_position="HFP", ring_spacing_mm=5.0),
        segments=(Segment(None, plane[None]),),
        first_tangential=-(plane.shape[1] // 2),
        towards="superior",
        origin=Path(path),
        sha256=sha256_of(Path(path)),
    )
'''

SCANNER = """
geometry: ring
blocks: 6
crystals_per_block: 8
radius_mm: 190.0
pitch_mm: 20.0
radial_trim: 12
even_bins: false
gaps: [0]
first_end_point_deg: 30.0
"""
"""24 views and 23 bins."""

OVERLAY = {
    "scans": {"text": {"sinogram": "measured/scan.toy"}},
    "source": "toy",
    "methods": {"Toy": {"conditioning": ["sinogram", "truth"]}},
    "variants": {"Toy-3": {"method": "Toy", "kernel": 3}},
    "evaluation": {
        "models": ["Toy", "Toy-3"],
        "uncertainty": "",
        "sweeps": {
            name: {"models": []} for name in ("epochs", "guidance", "samplers", "consistency")
        },
    },
}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def create(path: Path, text: str) -> None:
    assert not path.exists()
    path.write_text(text.lstrip(), encoding="utf-8")


def add_method(project: Path) -> set[str]:
    create(project / "models/methods/toy.py", METHOD)
    create(project / "models/methods/toy.yaml", METHOD_SETTINGS)
    line = '    "Toy": "models.methods.toy:Toy",\n'
    last = '    "Pix2Pix": "models.methods.gan:Pix2Pix",\n'
    edit(project / "models/registry.py", last, last + line)
    edit(project / "config/config.yaml", "\nvariants:", METHOD_SECTION + "\nvariants:")
    return {
        *("models/methods/toy.py", "models/methods/toy.yaml"),
        *("models/registry.py", "config/config.yaml"),
    }


def add_metric(project: Path) -> set[str]:
    end = ')\n"""In the order of tables'
    edit(project / "models/evaluation/catalogue.py", end, METRIC + end[2:])
    with (project / "models/evaluation/compute.py").open("a", encoding="utf-8") as file:
        file.write(METRIC_FUNCTION)
    return {"models/evaluation/catalogue.py", "models/evaluation/compute.py"}


def add_source(project: Path) -> set[str]:
    create(project / "pipeline/sources/toy.py", SOURCE)
    line = '    "toy": "pipeline.sources.toy:fetch",\n'
    last = '    "folder": "pipeline.sources.folder:fetch",\n'
    edit(project / "pipeline/sources/registry.py", last, last + line)
    return {"pipeline/sources/toy.py", "pipeline/sources/registry.py"}


def add_channel(project: Path) -> set[str]:
    line = '    "truth": Channel("activity", "activity"),\n'
    last = '    "osem_input": Channel("osem_input", IMAGES),\n'
    edit(project / "models/channels.py", last, last + line)
    return {"models/channels.py"}


def add_reader(project: Path) -> set[str]:
    create(project / "pipeline/scans/toy.py", READER)
    line = '    ".toy": "pipeline.scans.toy:read",\n'
    last = '    ".petsird": "pipeline.scans.listmode:read",\n'
    edit(project / "pipeline/scans/registry.py", last, last + line)
    return {"pipeline/scans/toy.py", "pipeline/scans/registry.py"}


def add_scanner(project: Path) -> set[str]:
    create(project / "config/scanners/toy.yaml", SCANNER)
    return {"config/scanners/toy.yaml"}


def differing(project: Path) -> set[str]:
    """Files of a copy that the project has not, or not so."""
    found = set()
    for path in (path for top in PROJECT for path in (project / top).rglob("*")):
        name = path.relative_to(project)
        if path.is_file() and "__pycache__" not in name.parts:
            same = (ROOT / name).exists() and filecmp.cmp(path, ROOT / name, shallow=False)
            found |= set() if same else {name.as_posix()}
    return found


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy with one of each, where the workflow has run; and the files that each touched."""
    project = tmp_path_factory.mktemp("adding") / "copy"
    copy_project(project)
    rows = "".join(f"{subject}\t{split}\t-\n" for subject, split in SUBJECTS.items())
    (project / "data").mkdir()
    table = f"subject\tsplit\tlabels_sha256\n{rows}"
    (project / "data/subjects.tiny.tsv").write_text(table, encoding="utf-8")
    touched = {}
    (project / "measured").mkdir()
    np.savetxt(project / "measured/scan.toy", np.full((24, 23), 7), fmt="%d")
    for add in (add_method, add_metric, add_source, add_channel, add_reader, add_scanner):
        before = differing(project)
        said = add(project)
        touched[add] = (said, differing(project) - before)
    (project / "toys.yaml").write_text(yaml.safe_dump(OVERLAY), encoding="utf-8")
    result = called(project, "--cores", "2")
    assert result.returncode == 0, result.stdout[-4000:]
    return project, touched


def called(project: Path, *arguments: str):
    tiny = str(ROOT / "tests" / "tiny.yaml")
    files = ("--configfile", tiny, "toys.yaml")
    return snakemake(project, *files, *arguments, tiny=False)


def test_a_method_is_its_files_a_line_and_its_section(extended):
    project, touched = extended
    said, changed = touched[add_method]
    assert changed == said
    results = project / "results" / "tiny"
    table = (results / "table1.md").read_text(encoding="utf-8")
    assert "| Toy |" in table
    assert "| Toy-3 |" in table
    trained = yaml.safe_load((results / "weights" / "Toy-3.yaml").read_text(encoding="utf-8"))
    assert trained["settings"]["kernel"] == 3
    assert (results / "reconstructions" / "Toy" / "subject03.h5").exists()
    refused = called(project, "--dry-run", "--config", "methods={Toy: {kernel: 10}}")
    assert "methods.Toy.kernel: is 10" in refused.stdout
    refused = called(project, "--dry-run", "--config", "methods={Toy: {kernal: 3}}")
    assert "did you mean 'kernel'?" in refused.stdout


def test_a_metric_is_its_entry_and_its_function(extended):
    project, touched = extended
    said, changed = touched[add_metric]
    assert changed == said
    metrics = pd.read_csv(project / "results" / "tiny" / "metrics.csv.gz")
    found = metrics[metrics["metric"] == "largest_error"]
    assert {*found["reference"]} == {"osem", "truth"}
    assert {"Toy", "Toy-3", "FBP", "OSEM"} <= {*found["model"]}
    assert (found["value"] > 0).any()
    table = pd.read_csv(project / "results" / "tiny" / "table1.csv")
    assert [name for name in table.columns if "largest" in name]
    for form in ("md", "html", "tex"):
        text = (project / "results" / "tiny" / f"table1.{form}").read_text(encoding="utf-8")
        assert "largest error" in text


def test_a_source_is_its_file_and_a_line(extended):
    project, touched = extended
    said, changed = touched[add_source]
    assert changed == said
    assert {path.name for path in (project / "data" / "labels").iterdir()} == {"toy"}
    record = (project / "results" / "tiny" / "provenance.json").read_text(encoding="utf-8")
    assert yaml.safe_load(record)["source"] == "toy"
    refused = called(project, "--dry-run", "--config", "source=toys")
    assert "source: is 'toys'" in refused.stdout
    assert "brainweb, mni152, folder, toy" in refused.stdout


def test_a_condition_channel_is_a_line(extended):
    project, touched = extended
    said, changed = touched[add_channel]
    assert changed == said
    table = pd.read_csv(project / "results" / "tiny" / "metrics.csv.gz")
    seen = table[table["model"] == "Toy"]["conditioning"]
    assert {*seen} == {"sinogram, truth"}
    refused = called(
        project, "--dry-run", "--config", "methods={Toy: {conditioning: [sinogram, truht]}}"
    )
    assert "one of sinogram, line_integrals, fbp, osem_input, truth" in refused.stdout


def test_a_reader_and_a_scanner_are_a_file_each_and_a_line(extended):
    project, touched = extended
    for add in (add_reader, add_scanner):
        said, changed = touched[add]
        assert changed == said
    result = called(project, "--cores", "1", "--config", "scanner=toy", "--", "scans")
    assert result.returncode == 0, result.stdout[-4000:]
    arrays, facts = hdf5.read(project / "data/tiny/scans/text.h5", SCAN)
    geometry = json.loads(facts["geometry"])
    assert (geometry["blocks"], geometry["radius_mm"], geometry["gaps"]) == (6, 190, [0])
    assert (facts["patient_position"], facts["slice_mm"]) == ("HFP", 2.5)
    gaps = arrays["factors"] == 0
    assert gaps.any()
    assert np.array_equal(arrays["prompts"], np.where(gaps, 0, 7))
    for kind in ("osem", "fbp"):
        image = hdf5.read(project / f"results/tiny/scans/text/{kind}.h5", SCAN_IMAGE)[0]["image"]
        assert image.max() > 0
    refused = called(project, "--dry-run", "--config", "scanner=toys", "--", "scans")
    assert "choose from mmr, neurolf, signa_petmr, small, toy" in refused.stdout


def test_the_report_shows_what_was_added(extended):
    project, _ = extended
    result = called(project, "--cores", "1", "--report", "report.html")
    assert result.returncode == 0, result.stdout[-3000:]
    text = (project / "report.html").read_text(encoding="utf-8")
    assert "Toy-3" in text
