"""Measured sinograms that are broken or hostile, or do not belong together, and rules of scans."""

import zipfile
from pathlib import Path

import h5py
import numpy as np

from helpers import hostile as jobs
from helpers import interfile
from helpers.hostile import checked, in_turn, laid, nothing
from helpers.volumes import HTML
from pipeline.fbp import FbpSettings
from pipeline.import_scan import Scan, import_scan
from pipeline.osem import OsemSettings
from pipeline.scan_images import scan_fbp, scan_osem
from pipeline.tomography.geometry import Grid
from pipeline.tomography.scanners import Ring

RING = Ring(8, 2, 307.0, 100.0, 4, first_end_point_deg=-5.23)
GRID = Grid(16, 10.0)
SHAPE = (5, RING.views, RING.radial_bins)
FILE = Path("data/toy/scans/head.h5")
IMAGES = [Path("results/toy/osem.h5"), Path("results/toy/osem.nii")]
ARRAY = Scan("scan.npy", axes="plane view radial", patient_position="HFS", slice_mm=2.0)


def stir(views=RING.views, **changes):
    """STIR's header ``scan.hs`` and its data, with keys of the header changed."""
    segments, _ = interfile.toy_segments([(-1, 1)], 4, views, RING.radial_bins)
    return in_turn(jobs.folder(FILE.parent), lambda: interfile.write(".", segments, **changes))


def siemens(**changes):
    segments, _ = interfile.toy_segments([(-1, 1)], 4, RING.views, RING.radial_bins)
    return lambda: interfile.write_siemens(".", segments, **changes)


def other_length(change):
    """STIR's files, the data shorter or longer than their header says."""

    def make():
        stir()()
        data = Path("scan.s").read_bytes()
        Path("scan.s").write_bytes(change(data))

    return make


def arrays(**others):
    """Whole counts as ``scan.npy``, and arrays beside them, or in their place."""

    def make():
        FILE.parent.mkdir(parents=True)
        for name, array in {"scan": np.full(SHAPE, 3, np.int16), **others}.items():
            np.save(f"{name}.npy", array)

    return make


def with_value(value):
    array = np.ones(SHAPE)
    array[1, 2, 3] = value
    return array


def two_arrays():
    np.savez("scan.npz", prompts=np.ones(SHAPE), other=np.ones(SHAPE))


def header_alone(shape):
    """An array's header, and a few bytes of what it declares."""

    def make():
        with Path("scan.npy").open("wb") as file:
            described = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, described)
            file.write(bytes(40))

    return make


def bomb():
    """A gigabyte of zeros in a megabyte."""
    described = {"descr": "<f8", "fortran_order": False, "shape": (128, 1024, 1024)}
    with (
        zipfile.ZipFile("scan.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("prompts.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, described)
        for _ in range(128):
            file.write(bytes(2**23))


def taking(scan):
    """Rule ``import_scan``."""
    return lambda: import_scan("head", scan, RING, FILE)


def beside(**paths):
    return taking(Scan(**{**vars(ARRAY), **paths}))


def imported(make, scan=ARRAY):
    """A scan that was imported, and the folder for its images."""
    return in_turn(make, taking(scan), jobs.folder(IMAGES[0].parent))


def spoil(change):
    """Change the imported scan by hand."""
    with h5py.File(FILE, "r+") as file:
        change(file)


def put(dataset):
    dataset[1, 2, 3] = np.nan


def osem(subsets=4):
    """Rule ``scan_osem``."""
    return lambda: scan_osem(FILE, *IMAGES, OsemSettings(1, subsets), 0.0, GRID)


def make_fbp():
    scan_fbp(FILE, *IMAGES, FbpSettings("ramp", 1.0), GRID)


HEADER, DATA, ANEW = "scan.hs", "scan.s: ", "correct the header, or export"
NPY, AGAIN, BELONGS = "scan.npy", "save the array anew", "give the file that belongs to these"
BEHIND = "behind a #: scan.npz#prompts"
BELOW = {"factors": "factor is", "randoms": "expected count", "scatter": "expected count"}
SCANNER, FBP_ALONE = "give the scanner of these data", "images: [fbp]"
ORDER = {"matrix axis label [2]": "segment", "matrix axis label [4]": "axial coordinate"}
NUMBERS = {"!matrix size [1]": 10**12}

SCANS = jobs.section(
    "scan",
    taking(Scan("scan.hs")),
    {
        "more declared than held": (stir(**{"!matrix size [1]": 9}), DATA, "bytes,", "copy it"),
        "huge declared shape": (stir(**NUMBERS), DATA, "by its header", "copy it anew"),
        "cut": (other_length(lambda data: data[:-9]), DATA, "1559 bytes, 1568 by", "copy it anew"),
        "longer": (other_length(lambda data: data + b"9"), DATA, "1569 bytes, 1568", "copy it"),
        "empty": (other_length(lambda data: b""), DATA, "0 bytes, 1568 by", "copy it anew"),
        "unknown order of axes": (stir(**ORDER), HEADER, "axes tangential coord", "known", ANEW),
        "other number of bytes": (stir(**{"!number of bytes per pixel": 3}), HEADER, "3 by", ANEW),
        "no number format": (stir(**{"!number format": None}), HEADER, "'number format'", "add it"),
        "detectors of another scanner": (
            *(stir(**{"Number of detectors per ring": 504}), HEADER, "504 det", "scanner 16"),
            SCANNER,
        ),
        "radius of another scanner": (
            *(stir(**{"Inner ring diameter (cm)": 65.6}), HEADER, "335.0 mm", "307.0", SCANNER),
        ),
        "turned scanner": (
            stir(**{"View offset (degrees)": 0}),
            HEADER,
            "0.0 deg",
            "-5.23",
            SCANNER,
        ),
        "mashed views": (stir(4), HEADER, "4 views, and the conf", "without view mashing"),
        "views of another scanner": (stir(7), HEADER, "has 7 views, and", "scanner 8", SCANNER),
        "ring differences of no ring": (
            *(stir(**{"maximum ring difference per segment": "{9}"}), HEADER, "-1 to 9 on 4 rings"),
            ANEW,
        ),
        "several frames": (stir(**{"number of time frames": 3}), HEADER, "3 time", "one frame, or"),
        "transmission": (stir(**{"!PET data type": "Transmission"}), HEADER, "'transm", ANEW),
        "no position": (stir(**{"patient rotation": None}), HEADER, "how the patient", "HFS, HFP"),
        "escapes": (stir(**{"!PET data type": "\x1b[2J"}), HEADER, r"\x1b[2j", ANEW),
        "device for data": (stir(**{"name of data file": "/dev/zero"}), "/dev/zero", "regular"),
        "no data": (stir(**{"name of data file": "none.s"}), "none.s", "exist", "correct 'name of"),
        "web page": (laid(HEADER, HTML), HEADER, "begin with '!INTERFILE", "give an Interfile"),
        "endless header": (laid(HEADER, bytes(2**21)), HEADER, "1048576 bytes", "not the data"),
        "missing": (nothing, HEADER, "does not exist", "correct its path"),
        "pipe": (jobs.pipe(HEADER), HEADER, "no regular file", "correct its path"),
    },
) + jobs.section(
    "Siemens' scan",
    taking(Scan("scan.s.hdr")),
    {
        "compressed": (siemens(**{"%compression": "on"}), "scan.s.hdr", "compressed", "intfcompr"),
        "planes of no segment": (siemens(**{"%segment table": "{9}"}), "and segments of", ANEW),
    },
)

SCANS += jobs.section(
    "array",
    taking(ARRAY),
    {
        "pickle with code": (laid(NPY, jobs.pickled()), NPY, "not a readable .npy", AGAIN),
        "objects": (lambda: np.save(NPY, np.array([[[{}]]])), NPY, "not real numbers", AGAIN),
        "huge declared shape": (header_alone((10**6, 10**6, 9)), NPY, "by its header", "copy it"),
        "two axes": (lambda: np.save(NPY, np.ones((8, 7))), NPY, "(8, 7), for the axes", "name"),
        "NaN": (arrays(scan=with_value(np.nan)), NPY, "1 bins that are not finite", "export it"),
        "no counts": (arrays(scan=with_value(2.0**40)), NPY, "a bin of 1.09951e+12", "byte order"),
        "too few bins": (arrays(scan=np.ones((5, 8, 5))), NPY, "5 bins from -2", "radial_trim"),
        "mashed views": (arrays(scan=np.ones((5, 4, 7))), NPY, "4 views", "without view mashing"),
    },
)

SCANS += [
    jobs.Case(f"scan: {name}", make, act, wanted)
    for name, make, act, wanted in (
        (
            "bomb",
            bomb,
            taking(Scan("scan.npz", axes="plane view radial")),
            ("scan.npz", "not fit into memory", "more memory"),
        ),
        ("unknown format", laid("a.dcm", b"1"), taking(Scan("a.dcm")), ("a.dcm", ".hs, .s.hdr")),
        (
            "unknown axes",
            arrays(),
            beside(axes="z view bin"),
            ("scans.head.axes: is 'z view bin'", NPY, "name them"),
        ),
        (
            "randoms averaged over an even number",
            arrays(other=np.ones(SHAPE)),
            beside(randoms="other.npy", smoothed_randoms=4),
            ("scans.head.smoothed_randoms: is 4", "for other.npy", "give an odd number"),
        ),
        (
            "randoms averaged that are not there",
            arrays(),
            beside(smoothed_randoms=3),
            ("scans.head.smoothed_randoms: is 3", "has no randoms", "leave it out, or give"),
        ),
        (
            "no axes",
            arrays(),
            beside(axes=""),
            ("scans.head.axes: is not given", NPY, "as in 'plane view radial'"),
        ),
        (
            "ring differences of planes",
            arrays(),
            beside(ring_difference=2),
            ("scans.head.ring_difference: is 2, and scan.npy has planes", "leave it out"),
        ),
        (
            "name of a single array",
            arrays(),
            beside(sinogram="scan.npy#x"),
            (NPY, "has no name, and 'x' is asked for", "leave out", "#x"),
        ),
        (
            "name in a header",
            stir(),
            taking(Scan("scan.hs#x")),
            (HEADER, "has no name, and 'x' is asked for", "leave out", "#x"),
        ),
        *(
            (f"{name} of several arrays", two_arrays, beside(sinogram=path), said)
            for name, path, said in (
                ("none", "scan.npz", ("scan.npz: holds 'prompts', 'other'", BEHIND)),
                ("another", "scan.npz#x", ("scan.npz: lacks 'x'; it holds 'prompts'", BEHIND)),
            )
        ),
        (
            "no such name of Siemens' data",
            siemens(),
            taking(Scan("scan.s.hdr#x")),
            ("scan.s.hdr", "and no 'x'", "behind a #: scan.s.hdr#prompts"),
        ),
        (
            "zeros",
            arrays(scan=np.zeros(SHAPE)),
            beside(),
            (NPY, "nothing but zeros", "give the prompts as measured"),
        ),
        (
            "factors of zeros",
            arrays(other=np.zeros(SHAPE)),
            beside(factors="other.npy"),
            ("other.npy", "nothing but zeros", "export it anew, or leave it out"),
        ),
        (
            "its own randoms",
            arrays(),
            beside(randoms=NPY, smoothed_randoms=3),
            (NPY, "840 counts of background", "have 840 in all", "not the prompts themselves"),
        ),
        (
            "background beyond the prompts",
            arrays(other=np.full(SHAPE, 1.5)),
            beside(randoms="other.npy", scatter="other.npy"),
            ("other.npy and other.npy: hold 840 counts", "scan.npy have 840 in all", "expected"),
        ),
        ("no distance", arrays(), beside(slice_mm=0), (NPY, "planes are apart", "give slice_mm")),
        *(
            (
                f"{what} {name}",
                arrays(other=array),
                beside(**{what: "other.npy"}),
                ("other.npy", *said),
            )
            for what in ("factors", "randoms", "scatter")
            for name, array, said in (
                ("of another shape", np.ones((6, *SHAPE[1:])), ("(6, 8, 7) (plane", BELONGS)),
                (
                    "of other views",
                    np.ones((5, 9, 7)),
                    ("9 views x 7", "prompts, which fit", BELONGS),
                ),
                ("of NaN", with_value(np.nan), ("1 bins that are not finite", "export it")),
                (
                    "below 0",
                    with_value(-2),
                    ("1 bin below 0, the least -2, which no", BELOW[what], "export it anew"),
                ),
            )
        ),
        (
            "OSEM of fractions",
            imported(arrays(scan=with_value(0.5))),
            osem(),
            (str(FILE), "holds 1 bin of no whole number, the first 0.5, of scan.npy;", FBP_ALONE),
        ),
        (
            "OSEM of corrected counts",
            imported(stir(**{"applied corrections": "{attenuation correction}"}), Scan("scan.hs")),
            osem(),
            (str(FILE), "corrected before (attenuation correction), of scan.hs;", FBP_ALONE),
        ),
        (
            "OSEM of negative counts",
            imported(arrays(scan=with_value(-2))),
            osem(),
            (str(FILE), "holds 1 bin below 0, the least -2, of scan.npy;", FBP_ALONE),
        ),
        (
            "OSEM of other subsets",
            imported(arrays()),
            osem(3),
            ("3 subsets", "one of [1, 2, 4, 8]"),
        ),
        (
            "damaged before FBP",
            in_turn(imported(arrays()), lambda: spoil(lambda file: put(file["background"]))),
            make_fbp,
            (str(FILE), "'/background'", "1 non-finite value", "run rule 'import_scan' again"),
        ),
        (
            "misspelt key",
            nothing,
            checked(scans={"head": {"sinogrm": "x.hs"}}),
            ("scans.head.sinogrm", "did you mean 'sinogram'?"),
        ),
        (
            "path for a name",
            nothing,
            checked(scans={"../x": {"sinogram": "x.hs"}}),
            ("'../x'", "matching"),
        ),
    )
]
