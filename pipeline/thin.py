"""Rule ``thin``: the same measurement with fewer counts."""

from pathlib import Path

import numpy as np

from pipeline.jobs.seeds import keyed_rng
from pipeline.storage import hdf5
from pipeline.storage.kinds import DOSE, SIMULATION_FACTS, SINOGRAM, SUBJECT_FACTS, identity_of


def thinned(
    prompts: np.ndarray, dose: float, seed: int, subject: str, rotation: int, slice_index: int
) -> np.ndarray:
    """Keep each prompt with probability ``dose``: (view, radial) uint32.

    A binomial draw from Poisson counts of mean m is Poisson of mean ``dose`` m, so that these are
    the counts of a shorter scan or a smaller activity. Draws belong to the slice and dose alone.
    """
    rng = keyed_rng(seed, f"thin {dose!r}", subject, rotation, slice_index)
    return rng.binomial(prompts, dose).astype(np.uint32)


def thin(sinogram: Path, output: Path, dose: float) -> None:
    """Rule ``thin``: draw a subject's prompts at a dose from those of all counts.

    Parameters
    ----------
    sinogram : Path
        Of kind `pipeline.storage.kinds.SINOGRAM`, with all counts.
    output : Path
        Of the same kind: prompts are drawn, ``background`` and ``scale`` are ``dose`` times as
        large, factors the same.
    dose : float
        Part of the counts that is kept, in (0, 1).
    """
    with hdf5.opened(sinogram, SINOGRAM) as file:
        identity = identity_of(file)
        seed, subject = int(file.attrs["seed"]), file.attrs["subject"]
        names = zip(identity["rotation"], identity["slice_index"], strict=True)
        prompts = [
            thinned(hdf5.finite(file["prompts"], row), dose, seed, subject, int(turn), int(index))
            for row, (turn, index) in enumerate(names)
        ]
        facts = {name: file.attrs[name] for name in (*SUBJECT_FACTS, *SIMULATION_FACTS)}
        hdf5.write(
            output,
            SINOGRAM,
            {
                "prompts": np.stack(prompts),
                "factors": file["factors"],
                **{n: hdf5.finite(file[n]) * np.float32(dose) for n in ("background", "scale")},
                **identity,
            },
            hdf5.provenance(
                {"dose": dose, "sinogram": file.attrs["config_hash"]},
                projector=file.attrs["projector"],
                **{**facts, DOSE: dose},
            ),
        )
