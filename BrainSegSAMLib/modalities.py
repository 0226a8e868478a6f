"""Which MR sequence a file or node holds, told from its name by a table of aliases.

Names are cut into tokens at everything that is not a letter, a digit or "+", and runs of neighbouring tokens are looked
up: "T1-POST", "t1_post" and "T1POST" are the same alias. The longest alias wins, so "T1POST" is not "T1".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import InputError

REFERENCE: Final = "reference"
"""What `ModalityTable.recognise` answers for a segmentation: an expert's, or anybody's."""

OTHER: Final = "other"
"""What `ModalityTable.recognise` answers for a file that is neither a modality nor a reference (a brain mask)."""

_ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "flair": ("fla", "t2f", "t2flair", "flairt2", "t2wflair", "darkfluid", "tirm"),
    "t1": ("t1n", "t1w", "t1weighted", "t1native", "t1pre", "mprage", "t1mprage", "spgr"),
    "t1ce": (
        "t1c", "t1gd", "t1gad", "t1gado", "t1gadolinium", "t1post", "t1postcontrast", "t1contrast", "t1km",
        "t1+c", "t1c+", "t1+", "t1+gd", "t1wce", "t1wgd", "t1wpost", "ct1", "cet1", "cet1w", "gdt1", "gdt1w",
    ),
    "t2": ("t2w", "t2weighted", "t2tse", "t2fse"),
    "t2star": ("t2s", "t2starw", "t2gre", "gre"),
    "dwi": ("b1000", "dwib1000", "trace", "tracew", "dwitrace", "isodwi"),
    "adc": ("dwiadc", "adcmap", "adcdwi"),
    "b0": ("dwib0", "b0dwi"),
    "swi": ("swan", "venobold"),
    "tof": ("mra", "tofmra", "mratof", "angio", "3dtof", "toff3d"),
    "pd": ("pdw", "protondensity"),
    "ct": ("ncct", "cct"),
    REFERENCE: (
        "seg", "dseg", "segmentation", "label", "labels", "labelmap", "mask", "msk", "gt", "groundtruth", "truth",
        "goldstandard", "annotation", "annotations", "lesion", "lesions", "lesionmask", "tumormask", "tumourmask",
    ),
    OTHER: ("brainmask", "headmask", "skullmask", "betmask"),
}  # fmt: skip

# A contrast agent may stand anywhere in a name: "T1 MPRAGE post", BIDS' "ce-gadolinium_T1w".
_WITH_CONTRAST: Final = frozenset({"gd", "gad", "gado", "gadolinium", "post", "postcontrast", "contrast"})
_WITHOUT_CONTRAST: Final = frozenset({"pre", "precontrast", "non", "no", "without", "noncontrast", "native"})
_CONTRAST_ENTITY: Final = re.compile(r"(?<![a-z0-9])ce-[a-z0-9]+")
# "flair_to_t1" names the image that this one was registered to; so does BIDS' "space-T1w".
_TARGET_WORDS: Final = frozenset({"to", "in", "on", "onto"})
# Parts that say who, when or which, and may look like an alias by chance; and "post" that means no contrast agent.
_NOISE: Final = re.compile(
    r"(?<![a-z0-9])(?:(?:sub|ses|run|echo|part|dir|rec|space)-[a-z0-9]+"
    r"|post[_\-. ]?(?:op|operative|surgery|surgical|treatment|therapy|radiation|processed|proc)(?![a-z0-9]))"
)
_TOKEN: Final = re.compile(r"[A-Za-z0-9+]+")
_LONGEST_RUN: Final = 4


@dataclass(frozen=True)
class ModalityTable:
    """Aliases of modality names.

    Attributes:
        aliases: alias, lower-case letters, digits and "+" only → canonical name.
    """

    aliases: Mapping[str, str]

    @classmethod
    def default(cls) -> ModalityTable:
        """The table that ships: flair, t1, t1ce, t2, t2star, dwi, adc, b0, swi, tof, pd, ct."""
        return cls({}).extended(_ALIASES)

    def extended(self, mapping: Mapping[str, Iterable[str]]) -> ModalityTable:
        """This table with more aliases; an alias that is there already takes its new meaning.

        Args:
            mapping: canonical name → its aliases (the name itself need not be repeated).

        Raises:
            InputError: where a name or alias has no letter or digit.
        """
        aliases = dict(self.aliases)
        for canonical, names in mapping.items():
            for name in (canonical, *names):
                key = "".join(_tokens(name))
                if not key:
                    raise InputError(f"'{name}' cannot be a name of modality '{canonical}': it has no letter or digit.")
                aliases[key] = canonical
        return ModalityTable(aliases)

    def for_modalities(self, modalities: Iterable[str]) -> ModalityTable:
        """This table with the names that a model uses as the canonical ones.

        A model that calls its input "T1c" gets all aliases of t1ce under the name "T1c".
        """
        aliases = dict(self.aliases)
        for name in modalities:
            key = "".join(_tokens(name))
            canonical = self.aliases.get(key, key)
            aliases = {alias: name if meaning == canonical else meaning for alias, meaning in aliases.items()}
            aliases[key] = name
        return ModalityTable(aliases)

    def recognise(self, name: str) -> str | None:
        """The modality that a file or node name tells, `REFERENCE`, `OTHER`, or None.

        None where no alias occurs, or where several modalities are named by aliases of the same length.
        """
        text = _CONTRAST_ENTITY.sub("contrast", _NOISE.sub("", name.lower()))
        tokens = _without_targets(_tokens(text))
        found: dict[str, int] = {}
        for start in range(len(tokens)):
            for end in range(start + 1, min(start + _LONGEST_RUN, len(tokens)) + 1):
                alias = "".join(tokens[start:end])
                if alias in self.aliases:
                    meaning = self.aliases[alias]
                    found[meaning] = max(found.get(meaning, 0), len(alias))
        for role in (OTHER, REFERENCE):  # "flair_seg" is a segmentation, whatever it was drawn on
            if role in found:
                return role
        best = [meaning for meaning, length in found.items() if length == max(found.values())]
        if len(best) != 1:
            return None
        return self._with_contrast(best[0], tokens)

    def without_modality(self, name: str) -> str:
        """What a name says besides the modality, e.g. "BraTS2021_01476" of "BraTS2021_01476_flair"; may be ""."""
        spans = [match.span() for match in _TOKEN.finditer(name)]
        text = list(name)
        for start in range(len(spans)):
            for end in range(start + 1, min(start + _LONGEST_RUN, len(spans)) + 1):
                run = spans[start:end]
                alias = "".join(name[first:last] for first, last in run).lower()
                if alias in self.aliases or alias in _WITH_CONTRAST:
                    text[run[0][0] : run[-1][1]] = "\0" * (run[-1][1] - run[0][0])
        return re.sub(r"[_\-. ]*\0[_\-. \0]*", "_", "".join(text)).strip("_-. ")

    def _with_contrast(self, meaning: str, tokens: list[str]) -> str:
        if meaning != self.aliases.get("t1") or not _WITH_CONTRAST & set(tokens) or _WITHOUT_CONTRAST & set(tokens):
            return meaning
        return self.aliases.get("t1ce", meaning)


def _tokens(name: str) -> list[str]:
    return _TOKEN.findall(name.lower())


def _without_targets(tokens: list[str]) -> list[str]:
    return [t for i, t in enumerate(tokens) if i == 0 or tokens[i - 1] not in _TARGET_WORDS]
