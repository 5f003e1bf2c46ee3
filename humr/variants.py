"""Every ablation of every system, by name."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from humr import lifting_variants, mesh_variants
from humr.mesh_variants import FEW, L2D_RANDOM, SAMPLE_COUNTS
from humr.paper_config import PaperRun
from humr.profiles import Profile, profile
from humr.variant import Variant, changed

__all__ = ["FEW", "L2D_RANDOM", "SAMPLE_COUNTS", "STUDIES", "Variant", "changed", "home",
           "variant", "variants"]  # fmt: skip


def _of(part: str, build: Callable[..., list[Variant]], sizes: Profile) -> list[Variant]:
    base = getattr(sizes, part)
    found = build(base)
    if isinstance(base, PaperRun):  # the official code never knows the focal length
        return [replace(each, default_focal=each.name != "focal") for each in found]
    return found


STUDIES: dict[str, Callable[[Profile], list[Variant]]] = {
    name: partial(_of, part, build)
    for part, studies in (
        ("study", mesh_variants.STUDIES),
        ("lifting", lifting_variants.FLOW_STUDIES),
        ("propose", lifting_variants.PROPOSE_STUDIES),
    )
    for name, build in studies.items()
}


def home(study: str, profile_name: str) -> str:
    """Name the profile that a study is run in: on licensed data, for some, the open one beside."""
    sizes = profile(profile_name)
    return sizes.open.name if study in mesh_variants.OPEN_ONLY else sizes.name


def variants(study: str, profile_name: str) -> list[Variant]:
    """List the variants of a study, seed 0."""
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}; expected one of {', '.join(STUDIES)}")
    return STUDIES[study](profile(profile_name))


def variant(study: str, name: str, profile_name: str) -> Variant:
    """Return one variant of a study, seed 0."""
    found = {v.name: v for v in variants(study, profile_name)}
    if name not in found:
        raise ValueError(f"study {study!r} has no variant {name!r}; it has {', '.join(found)}")
    return found[name]
