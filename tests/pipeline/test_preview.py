import functools
import io
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import typer
from matplotlib.figure import Figure
from matplotlib.image import imread
from rich.console import Console
from typer.testing import CliRunner

from helpers.paths import ROOT
from pipeline import preview
from pipeline.shard import SHARD
from pipeline.storage import hdf5
from pipeline.storage.errors import InputError
from pipeline.storage.kinds import FBP, LABELS, OSEM, PHANTOM, SINOGRAM, SLICES, SYSTEM_MATRIX

IMAGES = [LABELS, PHANTOM, SLICES, SINOGRAM, OSEM, FBP, SHARD]
LENGTH = {"slice": 9, "z": 9, "y": 20, "x": 16, "view": 12, "radial": 15, "entry": 30}
APP = typer.Typer()
APP.command()(preview.main)


def write(path, kind, **facts):
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.integers(0, 12, [LENGTH[axis] for axis in declared.axes]).astype(declared.dtype)
        for name, declared in kind.datasets.items()
    }
    facts = {"subject": "subject04", "orientation": "LPS"} | facts
    hdf5.write(path, kind, arrays, hdf5.provenance({"a": [1]}, **facts))
    return path


def text_of(path):
    text = io.StringIO()
    Console(file=text, width=300).print(preview.tree(path))
    return text.getvalue()


def run(*arguments):
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


@pytest.mark.parametrize("kind", [*IMAGES, SYSTEM_MATRIX], ids=lambda kind: kind.name)
def test_tree_tells_shape_type_units_and_meaning_of_every_dataset(tmp_path, kind):
    path = write(tmp_path / "file[1].h5", kind)
    text = text_of(path)
    assert f"{path}  {kind.name}, " in text
    for name, declared in kind.datasets.items():
        shape = tuple(LENGTH[axis] for axis in declared.axes)
        axes = ", ".join(declared.axes)
        wanted = f"{name} ({axes}) = {shape} {declared.dtype}, in {declared.units}: "
        assert wanted + declared.description in text
    for attribute in ('config = {"a": [1]}', "subject = subject04", f"rule = {kind.rule}"):
        assert attribute in text


@pytest.fixture(scope="module")
def sheet_of(tmp_path_factory):
    """Draw the contact sheet of a kind: its figure and its PNG; each is drawn once."""

    @functools.cache
    def draw(name):
        kind = next(kind for kind in IMAGES if kind.name == name)
        folder, figures, savefig = tmp_path_factory.mktemp(kind.name), [], Figure.savefig

        def spy(figure, *arguments, **options):
            figures.append(figure)
            savefig(figure, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Figure, "savefig", spy)
            preview.contact_sheet(write(folder / "file.h5", kind), folder / "sheet.png")
        return figures[0], folder / "sheet.png"

    return draw


def rows_and_bars(figure):
    """Rows of panels, and the colour bar of each, of a contact sheet."""
    panels = [ax for ax in figure.axes if ax.images]
    rows = [panels[n : n + preview.SHOWN] for n in range(0, len(panels), preview.SHOWN)]
    return rows, [ax for ax in figure.axes if not ax.images]


@pytest.mark.parametrize("kind", IMAGES, ids=lambda kind: kind.name)
def test_contact_sheet_has_a_row_of_images_and_a_colour_bar_a_dataset(sheet_of, kind):
    figure, sheet = sheet_of(kind.name)
    rows, bars = rows_and_bars(figure)
    names = sorted(name for name, data in kind.datasets.items() if len(data.axes) == 3)
    assert [row[0].get_ylabel() for row in rows] == [
        f"{name}\n{kind.datasets[name].axes[1]}" for name in names
    ]
    assert [row[0].get_xlabel() for row in rows] == [kind.datasets[n].axes[2] for n in names]
    units = [kind.datasets[n].units if kind.datasets[n].units != "1" else "no unit" for n in names]
    assert [bar.get_ylabel() for bar in bars] == units
    assert figure.get_suptitle() == f"{kind.name}, subject04, LPS"
    for row in rows:
        assert len(row) == preview.SHOWN
        assert len({ax.images[0].get_clim() for ax in row}) == 1
    image = imread(sheet)
    assert 1000 < image.shape[1] < 2000
    assert 150 * len(rows) < image.shape[0] < 400 * len(rows)
    assert np.ptp(image) > 0.9
    assert sorted(path.name for path in sheet.parent.iterdir()) == ["file.h5", "sheet.png"]


def test_nothing_on_a_contact_sheet_overlaps(sheet_of):
    figure, _ = sheet_of("shard")
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[n + 1 :])
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_sinograms_are_square_and_images_to_scale(sheet_of):
    rows, _ = rows_and_bars(sheet_of("shard")[0])
    for row in rows:
        box = row[0].get_window_extent()
        wanted = 1 if "view" in row[0].get_ylabel() else LENGTH["y"] / LENGTH["x"]
        assert box.height / box.width == pytest.approx(wanted, rel=1e-3)


def test_every_class_keeps_its_colour(sheet_of):
    rows, (bar,) = rows_and_bars(sheet_of("labels")[0])
    assert rows[0][0].images[0].get_clim() == (-0.5, 11.5)
    assert [tick.get_text() for tick in bar.get_yticklabels()] == [str(n) for n in range(12)]


def test_file_with_fewer_slices_than_panels(tmp_path):
    path, sheet = tmp_path / "file.h5", tmp_path / "sheet.png"
    hdf5.write(path, LABELS, {"labels": np.zeros((1, 8, 8), np.uint8)}, {})
    preview.contact_sheet(path, sheet)
    assert sheet.stat().st_size > 1000


def test_file_without_images_is_refused(tmp_path):
    with pytest.raises(InputError, match="a 'system_matrix' holds no images"):
        preview.contact_sheet(write(tmp_path / "file.h5", SYSTEM_MATRIX), tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_sheet_goes_beside_the_file_or_where_asked(tmp_path):
    path = write(tmp_path / "file.h5", OSEM)
    assert run(path).exit_code == 0
    assert run(path, "--sheet", tmp_path / "other.png").exit_code == 0
    assert {file.name for file in tmp_path.iterdir()} == {"file.h5", "file.png", "other.png"}
    assert (tmp_path / "file.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def damage(path):
    with h5py.File(path) as file:
        chunk = file["osem"].id.get_chunk_info(5)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)


def change(path, action):
    with h5py.File(path, "r+") as file:
        action(file)


BAD_FILES = {
    "missing": (lambda path: path.unlink(), "does not exist"),
    "text": (lambda path: path.write_text("text"), "cannot be read"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cannot be read"),
    "damaged": (damage, "dataset '/osem' is damaged"),
    "version": (
        lambda path: change(path, lambda file: file.attrs.modify("schema_version", 99)),
        "has schema version 99, not 1",
    ),
    "foreign": (
        lambda path: change(path, lambda file: file.attrs.pop("schema_version")),
        "has schema version None",
    ),
    "no kind": (lambda path: change(path, lambda file: file.attrs.pop("kind")), "cannot be read"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_and_leave_no_sheet(tmp_path, spoil, message):
    path = write(tmp_path / "file.h5", OSEM)
    spoil(path)
    result = run(path)
    assert result.exit_code == 1
    assert f"{path}: {message}" in result.stderr
    assert "\n  -> " in result.stderr
    assert not list(tmp_path.glob("*.png"))
    assert not list(tmp_path.glob(".*"))


def test_module_ends_with_exit_code_1_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "pipeline.preview", str(tmp_path / "none.h5")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path / 'none.h5'}: does not exist")
    assert "Traceback" not in done.stderr


def test_full_disk_leaves_no_half_sheet(tmp_path, monkeypatch):
    def savefig(figure, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "file.h5", OSEM)
    monkeypatch.setattr(Figure, "savefig", savefig)
    result = run(path)
    assert result.exit_code == 1
    assert f"{tmp_path / 'file.png'}: cannot be written" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


def test_sheet_in_a_missing_folder_is_refused(tmp_path):
    result = run(write(tmp_path / "file.h5", OSEM), "--sheet", tmp_path / "none" / "sheet.png")
    assert result.exit_code == 1
    assert f"make the folder {tmp_path / 'none'}" in result.stderr


@pytest.mark.parametrize("name", ["[bold]", "[/]", "[red]a[/red]", "a\\", ":smile:", "[link=x]"])
def test_names_and_texts_are_shown_as_they_are(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    path = write(tmp_path / name / f"{name.replace('/', '')}.h5", OSEM, subject=name)
    change(path, lambda file: file["osem"].attrs.modify("units", name))
    text = text_of(path)
    assert f"{path}  osem, " in text
    assert f", in {name}: " in text
    assert f"subject = {name}" in text
    output = run(path).stdout
    assert f"contact sheet: {path.with_suffix('.png')}\n" in output
