"""Own images that are broken or hostile, or do not belong together, and rule ``fetch`` of them."""

import gzip
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import JPEGLSLossless

from helpers import hostile as jobs
from helpers.hostile import OUTPUT, in_turn, laid, nothing
from helpers.own_images import save_dicom, save_nifti
from helpers.volumes import HTML
from pipeline.images import readers
from pipeline.sources import folder

NIFTI, SERIES = Path("volumes/subject04.nii.gz"), Path("volumes/subject04")
CAPITAL = Path("volumes/Subject04.nii.gz")
MU, LABELS = Path("volumes/subject04_mu.nii"), Path("volumes/subject04_labels.nii")
VALUES = np.random.default_rng(1).uniform(1, 9, (5, 6, 7)).astype(np.float32)

SUBJECTS = b"subject\tsplit\tlabels_sha256\nsubject04\ttrain\t%s\nsubject05\ttest\t-\n"
SUBJECTS += b"subject06\tvalidation\t-\n"


def table(sha256=b"-"):
    return laid("t.tsv", SUBJECTS % sha256)


def image(values=VALUES, path=NIFTI, **header):
    """A NIfTI file, with fields of its header changed."""
    return in_turn(jobs.earlier, table(), lambda: save_nifti(path, values, **header))


def beside(path, values):
    """A good image, and what does not belong to it."""
    return in_turn(image(), lambda: save_nifti(path, values))


def content(data, path=NIFTI):
    return in_turn(jobs.earlier, table(), laid(path, data))


def with_value(value):
    values = VALUES.copy()
    values[1, 2, 3] = value
    return image(values)


def series(change=lambda paths: None, **elements):
    """A series of seven slices, with elements or files changed."""
    return in_turn(jobs.earlier, table(), lambda: change(save_dicom(SERIES, VALUES, **elements)))


def doubled(paths):
    Path(SERIES, "again.dcm").write_bytes(paths[2].read_bytes())


def below(paths):
    (SERIES / "below").mkdir()
    for path in paths:
        path.rename(SERIES / "below" / path.name)


def compressed(paths):
    found = pydicom.dcmread(paths[0])
    found.file_meta.TransferSyntaxUID = JPEGLSLossless
    found.PixelData = pydicom.encaps.encapsulate([b"nothing"])
    found["PixelData"].is_undefined_length = True
    found.save_as(paths[0])


def fetch(negative="refuse"):
    """Rule ``fetch`` of the source folder, from the folder ``volumes``."""
    config = {"images_dir": "volumes", "negative": negative, "subjects": "t.tsv"}
    folder.fetch(OUTPUT, "subject04", config)


def clip():
    fetch("clip")


def cut_short():
    NIFTI.write_bytes(NIFTI.read_bytes()[:-30])


def huge():
    """A header that declares as much as may be read, and little else."""
    return image(dim=[3, 512, 512, 256, 1, 1, 1, 1], datatype=64, bitpix=64)


def bomb():
    """Half a gigabyte of zeros, as many voxels as may be, after a good header."""
    save_nifti(NIFTI, VALUES, dim=[3, 512, 512, 256, 1, 1, 1, 1], datatype=64, bitpix=64)
    head = gzip.compress(gzip.decompress(NIFTI.read_bytes())[:352])
    NIFTI.write_bytes(head + gzip.compress(bytes(2**25), 9) * 17)


IMAGE, AGAIN, ONE = str(NIFTI), "export it again", "put one series of slices there"
LACKS = f"volumes: lacks subject04; looked for {readers.names('subject04')}"
HUGE = {"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}

IMAGES = jobs.section(
    "own image",
    fetch,
    {
        "without affine": (image(sform_code=0, qform_code=0), IMAGE, "how it lies", AGAIN),
        "of no orientation": (image(srow_y=0), IMAGE, "which is none of an image", AGAIN),
        "several volumes": (image(np.stack([VALUES] * 2, -1)), IMAGE, "(5, 6, 7, 2)", "give one"),
        "complex": (image(VALUES.astype("c8")), IMAGE, "complex64", "one real number a voxel"),
        "NaN": (with_value(np.nan), IMAGE, "has 1 NaN in 210 voxels", "set negative: clip"),
        "negative": (with_value(-2), IMAGE, "1 negative values in", "down to -2", "negative: clip"),
        "infinity": (with_value(np.inf), IMAGE, "has 1 infinite values", "replace it"),
        "zeros": (image(VALUES * 0), IMAGE, "nothing but zeros", "replace it"),
        "huge declared shape": (image(**HUGE), IMAGE, "at most 512 along an axis", "crop it"),
        "more declared than held": (huge(), IMAGE, "declares 536871264 bytes", "copy it again"),
        "bomb": (in_turn(jobs.earlier, table(), bomb), IMAGE, "not fit into memory", "more memory"),
        "truncated gzip": (in_turn(image(), cut_short), IMAGE, "truncated or", "copy"),
        "cut": (image(dim=[3, 5, 6, 8, 1, 1, 1, 1]), IMAGE, "ends after 1192 bytes of", "copy it"),
        "damaged header": (image(datatype=77), IMAGE, "has a damaged header", AGAIN),
        "empty": (content(b""), IMAGE, "it starts with b''", AGAIN),
        "web page": (content(HTML), IMAGE, "no NIfTI file; it starts with b'<!DOC", AGAIN),
        "pickle with code": (content(jobs.pickled()), IMAGE, "is no NIfTI file", AGAIN),
        "other hash": (in_turn(image(), table(b"0" * 64)), IMAGE, "with SHA-256", "or correct"),
        "two of one name": (in_turn(image(), series()), "subject04.nii.gz and sub", "take all but"),
        "missing": (in_turn(table(), jobs.folder("volumes")), LACKS, "put the image there"),
        "in capitals": (image(path=CAPITAL), LACKS, f"found {CAPITAL.name}", f"to {NIFTI.name}"),
        "pipe": (in_turn(table(), jobs.pipe(NIFTI)), "lacks subject04", "put the image there"),
        "no folder": (nothing, "volumes: is not a folder", "correct images_dir"),
        "attenuation of another shape": (
            *(beside(MU, VALUES[1:] / 90), str(MU), "(7, 6, 4) voxels, and the image (7, 6, 5)"),
            "resample it",
        ),
        "attenuation in 1/mm": (beside(MU, VALUES / 900), str(MU), "up to 0.009", "give it in 1/"),
        "labels of another shape": (beside(LABELS, VALUES[1:]), str(LABELS), "(7, 6, 4) voxels"),
        "label 12": (beside(LABELS, np.full_like(VALUES, 12)), str(LABELS), "12", "matter 2"),
    },
) + jobs.section(
    "own series",
    clip,
    {
        "missing slice": (series(lambda p: p[3].unlink()), "none between 37.50 and 42.50 mm"),
        "doubled slice": (
            series(doubled),
            str(SERIES),
            "doubled ones: again.dcm and",
            "37.50",
            "away",
        ),
        "two series": (series(SeriesInstanceUID=lambda z: f"1.{z}"), "several series", ONE),
        "of computed tomography": (series(Modality="CT"), "modality CT, not PT", ONE),
        "escapes": (series(Modality="\x1b[2J"), r"modality \x1b[2J", ONE),
        "several frames": (series(NumberOfFrames=9), "holds 9 frames", "dcm2niix"),
        "compressed": (series(compressed), "JPEG-LS", "cannot be decoded", "dcm2niix"),
        "huge declared shape": (series(Rows=65535, Columns=65535), "(7, 65535, 65535)", "crop it"),
        "no positions": (series(ImagePositionPatient=None), "do not say where they lie", "dcm2n"),
        "cut": (series(PixelData=b"12"), "is damaged", "copy the series again"),
        "of NaN": (series(RescaleSlope=float("inf")), "infinite values", "replace it"),
        "large file": (series(lambda p: p[0].open("ab").truncate(2**30)), "8388608 bytes", "dcm2n"),
        "in a folder below": (
            *(series(below), str(SERIES), "volumes/subject04/below 7 DICOM files"),
            "move the files of one series into volumes/subject04",
        ),
        "no slices": (content(b"text", SERIES / "a.txt"), "holds 0 DICOM slices", ONE),
    },
)
