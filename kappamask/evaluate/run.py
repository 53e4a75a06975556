"""The whole evaluation: masks, sets, results, files."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from kappamask.base.errors import InputError, UnknownNameError
from kappamask.evaluate.goals import measure_engine
from kappamask.evaluate.grounds import cirrus_set, ground_set, pairs_set, snow_set
from kappamask.evaluate.peers import Peer, SclPeer, raster_peers
from kappamask.evaluate.pictures import Plate, plate, sheet
from kappamask.evaluate.programs import (
    NetworkPeer,
    S2cloudlessPeer,
    UkisPeer,
    name_of,
    network_from_file,
)
from kappamask.evaluate.published_sets import cloudsen12_sets, pixbox_set
from kappamask.evaluate.scenes import (
    BAND_SETS,
    SPLITS,
    ablation_sets,
    bright_set,
    drawn_sets,
    people_sets,
    series_set,
    show_scenes,
    simulated_set,
    val_set,
)
from kappamask.evaluate.scores import Answers, Progress, Results, score_all
from kappamask.evaluate.scoring import Dataset
from kappamask.train import air, noise, simulate
from kappamask.train.chips import read_chips

PUBLISHED_MODELS = ("kappamask-2021-l2a", "kappamask-2021-l1c")
PEERS = (
    "scl", "fmask", "python-fmask", "maja", "ukis-csmask", "s2cloudless", *PUBLISHED_MODELS,
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What is scored, and how."""

    models: tuple[str, ...] = ("default",)  # names of the manifest; the first is compared
    weights: Path | None = None  # of a training run; then it is the first
    peers: tuple[str, ...] = PEERS
    masks: Path | None = None  # folder with rasters of other masks: fmask/, maja/...
    splits: tuple[str, ...] = ()  # of `SPLITS`; empty: both, or `val` for weights of a run
    seed: int = 0
    draws: int = 1000  # of the bootstrap
    simulated: int | None = None  # at most so many simulated scenes
    pictures: bool = True
    cloudsen12: Path | None = None  # folder of CloudSEN12 or CloudSEN12+, scored by its own splits
    pixbox: Path | None = None  # folder of PixBox-S2-CMIX and its products; of the split `test`

    def __post_init__(self) -> None:
        """Refuse names that no table holds."""
        for kind, names, known in (("split", self.splits, SPLITS), ("mask", self.peers, PEERS)):
            for name in names:
                if name not in known:
                    raise UnknownNameError.of(kind, name, list(known))
        for model in self.models:
            name_of(model)
        if not self.models and self.weights is None:
            raise InputError("there must be a model to score, got none: pass models or weights")

    def chosen_splits(self) -> tuple[str, ...]:
        """Say what is scored: both splits, but `val` alone for a run that may still be chosen.

        Examples
        --------
        >>> Options().chosen_splits(), Options(weights=Path("best.safetensors")).chosen_splits()
        (('val', 'test'), ('val',))
        """
        return self.splits or (SPLITS if self.weights is None else SPLITS[:1])


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that was measured, and what it was measured with."""

    options: Options
    masks: tuple[Peer, ...]
    sets: tuple[Dataset, ...]
    results: Results
    cut: tuple[Peer, ...]  # the first mask with fewer bands
    cut_sets: tuple[Dataset, ...]
    cut_results: Results
    plates: tuple[Plate, ...] = field(repr=False)
    simulation: str = ""  # first digits of the hash of the simulation's source
    engine: Mapping[str, float] = field(default_factory=dict)  # what `measure_engine` found


def evaluate(
    data: Path, options: Options | None = None, *, progress: Progress | None = None
) -> Evaluation:
    """Score networks and other masks on labelled chips.

    Parameters
    ----------
    data
        Folder with `chips.csv`; Bolzano, SAFE products and `people/` in it are used where they
        are.
    options
        What is scored, and how; the shipped network against every mask by default.
    progress
        Called with (what, done, total).

    Returns
    -------
    Evaluation
        The same for the same data, options and machine.

    Raises
    ------
    InputError
        If `data` holds no `chips.csv`.
    UnknownNameError
        If a model is unknown.
    WeightsError
        If weights cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as empty:
    ...     evaluate(Path(empty))
    Traceback (most recent call last):
    kappamask.base.errors.InputError: ...
    """
    options = options or Options()
    check_data(data)
    masks = find_masks(options)
    sets = find_sets(data, options)
    answers = Answers()
    measure = partial(
        score_all, draws=options.draws, seed=options.seed, answers=answers, progress=progress
    )
    results = measure(masks, sets)
    cut_sets = tuple(ablation_sets(sets))
    cut = cut_masks(masks[0]) if cut_sets else ()
    return Evaluation(
        options=options,
        masks=tuple(masks),
        sets=tuple(sets),
        results=results,
        cut=cut,
        cut_sets=cut_sets,
        cut_results=measure(cut, cut_sets),
        plates=tuple(draw_plates(data, masks, sets, cut, answers)) if options.pictures else (),
        engine=measure_engine(masks[0], {one.name: one.chips for one in sets}.get("simulated", ())),
        simulation=hashlib.sha256(
            "".join(inspect.getsource(module) for module in (simulate, air, noise)).encode()
        ).hexdigest()[:12],
    )


def check_data(data: Path) -> None:
    """Refuse a folder without labelled chips.

    Raises
    ------
    InputError
        If it holds no `chips.csv`.
    """
    if not (data / "chips.csv").is_file():
        raise InputError(
            f"the data folder must hold chips.csv, got none in {data}: "
            "pass the folder of labelled chips"
        )


def find_masks(options: Options) -> list[Peer]:
    """Networks first, then the other masks, each also where it cannot run: the report says why."""
    networks = [NetworkPeer(name_of(model), model) for model in options.models]
    if options.weights is not None:
        networks.insert(0, network_from_file(options.weights))
    others: dict[str, Peer] = {
        "scl": SclPeer(),
        **raster_peers(options.masks),
        "ukis-csmask": UkisPeer(),
        "s2cloudless": S2cloudlessPeer(),
        **{name: NetworkPeer(name, name) for name in PUBLISHED_MODELS},
    }
    named = {network.name for network in networks}
    return [*networks, *(others[name] for name in options.peers if name not in named)]


def find_sets(data: Path, options: Options) -> list[Dataset]:
    """Make the sets of the chosen splits that hold any chip."""
    sets: list[Dataset] = []
    splits = options.chosen_splits()
    for split in splits:
        table = data / "people" / "people.csv"
        people = read_chips(table.parent, split, table=table) if table.is_file() else []
        sets += [*drawn_sets(people, split), snow_set(people, split)]
        if options.cloudsen12 is not None:
            sets += cloudsen12_sets(options.cloudsen12, split)
    if "test" in splits:
        sets += people_sets(data)
    if "val" in splits:
        sets += [simulated_set(data, limit=options.simulated), bright_set(data), val_set(data)]
        sets.append(series_set(data))
    elif splits:
        sets += [simulated_set(data, limit=options.simulated), bright_set(data)]
    if options.pixbox is not None and "test" in splits:
        sets.append(pixbox_set(options.pixbox))
    sets += [ground_set(data), pairs_set(data), cirrus_set(data)]
    return [dataset for dataset in sets if len(dataset.chips)]


def cut_masks(mask: Peer) -> tuple[Peer, ...]:
    """Give the first network 4, 6 and 10 bands, and all of them."""
    if not isinstance(mask, NetworkPeer):
        return ()
    named = {f"{len(bands)}: {' '.join(bands)}": bands for bands in BAND_SETS} | {"all": ()}
    return tuple(replace(mask, name=name, only=bands) for name, bands in named.items())


def draw_plates(
    data: Path,
    masks: Sequence[Peer],
    sets: Sequence[Dataset],
    cut: Sequence[Peer],
    answers: Answers,
) -> Iterator[Plate]:
    """Draw showpieces, test chips, clear ground and simulated scenes, as they were scored."""
    for chip in show_scenes(data):
        yield plate(f"{chip.name}: thin cloud and shadow", chip, masks, answers, drawn=False)
        if len(chip.bands) > len(BAND_SETS[0]) and cut:
            yield plate(f"{chip.name} with fewer bands", chip, cut, answers, drawn=False)
    for dataset in sets:
        if dataset.each and dataset.pictured:
            for chip in dataset.chips:
                yield plate(chip.name, chip, masks, answers, drawn=dataset.name != "bright")
        if dataset.name == "simulated" and len(dataset.chips) == 1:
            yield plate(dataset.title, dataset.chips[0], masks, answers, drawn=True)
        elif dataset.name == "simulated":
            yield sheet(dataset.title, dataset.chips, masks, answers)
