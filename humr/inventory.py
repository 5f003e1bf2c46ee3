"""Licensed files: what there is, what is missing, what is wrong, and where to get it.

``python3 -m humr data licensed`` prints it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from humr.environment import say
from humr.licensed import LICENSED, shown
from humr.licensed_entries import ENTRIES, PARTS, SOURCES, Entry


@dataclass(frozen=True)
class Finding:
    """What became of an entry."""

    entry: Entry
    path: Path
    state: str  # "ok", "missing" or "wrong"
    remark: str


def inspect(root: Path = LICENSED, *, entries: Iterable[Entry] | None = None) -> list[Finding]:
    """Look for all entries, and into those that are there."""
    return [_inspect(entry, root) for entry in (ENTRIES if entries is None else entries)]


def _inspect(entry: Entry, root: Path) -> Finding:
    there = [root / path for path in entry.paths if (root / path).exists()]
    if not there:
        return Finding(entry, root / entry.paths[0], "missing", "")
    try:
        return Finding(entry, there[0], "ok", entry.check(there[0]))
    except (ValueError, OSError) as error:
        return Finding(entry, there[0], "wrong", str(error))


def lacking(findings: Iterable[Finding], part: str) -> list[Finding]:
    """Return what a part of the experiments still needs."""
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}; got {part!r}")
    return [each for each in findings if each.state != "ok" and part in each.entry.parts]


def refusal(lacking: Sequence[Finding], *, named: int = 3) -> str:
    """Say in one sentence what training lacks, the first of it by name."""
    names = [each.remark or shown(each.path) for each in lacking[:named]]
    more = f" and {len(lacking) - named} more" if len(lacking) > named else ""
    return (
        f"training on licensed data needs {len(lacking)} files or folders that are missing or "
        f"wrong: {', '.join(names)}{more}. `python3 -m humr data licensed` lists them all, and "
        "where to register"
    )


def report(findings: Iterable[Finding]) -> str:
    """Describe findings: groups with a line per entry, then which parts are complete."""
    findings = list(findings)
    groups: dict[str, list[Finding]] = {}
    for each in findings:
        groups.setdefault(each.entry.group, []).append(each)
    lines = [line for group in groups.values() for line in _paragraph(group)]
    lines += ["", "parts of the papers' experiments:"]
    for part, meaning in PARTS.items():
        open_ = len(lacking(findings, part))
        lines.append(f"  {part}: {'complete' if not open_ else f'lacks {open_}'} ({meaning})")
    return "\n".join(lines) + "\n"


def _paragraph(group: list[Finding]) -> list[str]:
    open_ = [each for each in group if each.state != "ok"]
    entry, source = group[0].entry, SOURCES[group[0].entry.source]
    width = max(len(shown(each.path)) for each in group)
    lines = [f"{entry.group}: {len(group) - len(open_)} of {len(group)}"]
    lines += [_line(each, width) for each in group]
    if open_:
        parts = dict.fromkeys(part for each in open_ for part in each.entry.parts)
        lines.append(f"  from     {source.site}")
        lines.append(f"  licence  {source.licence}")
        lines.append(f"  for      {', '.join(parts) or 'nothing else here'}")
    return lines


def _line(found: Finding, width: int) -> str:
    """One entry; what is said of a wrong file mostly begins with its name."""
    path = shown(found.path)
    if found.state == "wrong" and path in found.remark:
        return f"  wrong    {found.remark}"
    return f"  {found.state:<7}  {path:<{width}}  {found.remark}".rstrip()


def main() -> int:
    """Print what is here."""
    say(report(inspect()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
