"""From declarations and records to what is shown: figures for the package, a page of claims, a page of findings.

Every declaration that was ever written down is judged anew from its lines, so that no page holds a verdict of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evidence.protocol.declaration import Declaration, read
from evidence.protocol.record import Record
from evidence.protocol.verdict import Judgement, judge
from roster.arena.paired import Gain
from roster.files import write_whole
from roster.recipes import RECIPES

NOT_JUDGED = "not judged by the protocol yet"
QUICK = "quick.json"
"""How long the quick form took when it last ran over every check."""
UNDECLARED = "undeclared.json"
"""Why a method has no declaration, by slug."""
_TITLES = {"shown": "What held", "refuted": "What did not", "undecided": "What nobody can tell at this size"}


@dataclass(frozen=True)
class Judged:
    """A declaration with what became of it."""

    declaration: Declaration
    record: Record
    judgement: Judgement

    @property
    def date(self) -> str:
        """Of the last run, or ""."""
        return max((line.date for line in self.record.lines.values()), default="")

    def seconds(self, clock: str) -> float:
        """Of all runs that this clock timed."""
        return sum(line.seconds for line in self.record.lines.values() if line.clock == clock)

    def took(self) -> str:
        """Seconds of all runs, by clock."""
        clocks = sorted({line.clock for line in self.record.lines.values()})
        return " and ".join(f"{self.seconds(clock):.0f} s of {clock} time" for clock in clocks)

    def figures(self) -> dict[str, Any]:
        """What the package keeps of it."""
        made = self.declaration
        gains = {name: [round(x, 6) for x in (g.mean, g.low, g.high)] for name, g in self.judgement.gains.items()}
        return {
            "name": made.name,
            "version": made.version,
            "claim": made.claim,
            "ground": made.ground,
            "budget": made.budget,
            "statistic": made.statistic.what,
            "asks": f"{made.statistic.asks}, {made.statistic.better} is better",
            "effect": made.statistic.effect,
            "seeds": made.seeds,
            "verdict": self.judgement.verdict,
            "reason": self.judgement.reason,
            "gains": gains,
            "date": self.date,
        }


def judge_folder(folder: Path) -> list[Judged]:
    """Every declaration of a folder, by name and version."""
    found = []
    for path in sorted((folder / "declarations").glob("*.json")):
        declaration = read(path)
        record = Record(folder / "records", declaration)
        found.append(Judged(declaration, record, judge(declaration, *record.values())))
    return sorted(found, key=lambda each: (each.declaration.name, each.declaration.version))


def latest(judged: Iterable[Judged]) -> list[Judged]:
    """Only the last version of each."""
    return list({each.declaration.name: each for each in judged}.values())


def verdicts(judged: Sequence[Judged], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """What the package shows, by slug: verdict, reason, every declaration, and what an earlier check said."""
    made: dict[str, Any] = {}
    for slug, recipe in RECIPES.items():
        if recipe.claim is None:
            continue
        mine = [each for each in judged if each.declaration.slug == slug]
        verdict, reason = _of_parts([each.judgement for each in latest(mine)])
        made[slug] = {"verdict": verdict, "reason": reason, "declarations": [each.figures() for each in mine]}
        if slug in earlier:
            made[slug]["earlier"] = earlier[slug]
    return made


def _of_parts(parts: Sequence[Judgement]) -> tuple[str, str]:
    """A claim holds when all of its parts do, and fails when one does."""
    if not parts:
        return "undecided", NOT_JUDGED
    for word in ("refuted", "undecided", "shown"):
        reasons = [each.reason for each in parts if each.verdict == word]
        if reasons:
            return word, "; ".join(dict.fromkeys(reasons))
    raise AssertionError("a verdict is one of three words")


def write_pages(folder: Path, docs: Path, package: Path) -> dict[str, Any]:
    """Writes figures and pages; returns the figures."""
    judged = judge_folder(folder)
    earlier = json.loads((folder / "earlier.json").read_text(encoding="utf-8"))
    made = verdicts(judged, earlier)
    write_whole(package, (json.dumps(made, indent=1, ensure_ascii=False) + "\n").encode())
    write_whole(docs / "claims.md", claims_page(judged).encode())
    write_whole(docs / "findings.md", findings_page(judged, made, folder).encode())
    return made


def claims_page(judged: Sequence[Judged]) -> str:
    """Every declaration with its result."""
    lines = [
        "# Claims, as declared and as judged",
        "",
        "Generated by `make evidence`. How to read it: [the protocol](../evidence.md); the short of it:",
        "[findings](findings.md). A gain is the mean of paired differences with a 95 % interval; above zero is better.",
        "",
    ]
    for each in judged:
        lines += _section(each)
    return "\n".join(lines)


def _section(each: Judged) -> list[str]:
    made, said = each.declaration, each.judgement
    statistic, pairs = made.statistic, made.pairs
    current = f"## {made.name}, version {made.version}: {'broken' if said.broken else said.verdict}"
    asked = f"{statistic.asks}, by {statistic.effect:g}; {statistic.better} is better"
    lines = [current, "", f"{made.claim}", "", f"{said.reason[:1].upper()}{said.reason[1:]}.", ""]
    lines += [f"- Ground: {made.ground}", f"- Budget: {made.budget}", f"- Statistic: {statistic.what} ({asked})"]
    lines += [f"- {name}: {what}" for name, what in made.contenders.items()]
    if said.gains:
        sets = {
            "judged": f"{pairs.method} against {pairs.baseline}",
            "ablation": f"{pairs.method} against {pairs.ablation}",
            "null": f"{pairs.method} against itself",
            "control": f"{pairs.planted} against {pairs.against}",
        }
        lines += ["", "| | pair | gain |", "|---|---|---|"]
        lines += [f"| {role} | {pair} | {told(said.gains[role])} |" for role, pair in sets.items()]
        lines += ["", "| contender | mean | lowest | highest |", "|---|---|---|---|"]
        for name, values in each.record.values()[0].items():
            mean = sum(values) / len(values)
            lines.append(f"| {name} | {mean:.4g} | {min(values):.4g} | {max(values):.4g} |")
    made_by = sorted({line.made_by for line in each.record.lines.values()})
    runs = f"{len(each.record.lines)} runs, {each.took()}, {each.date}; " if each.record.lines else "no runs; "
    return [*lines, "", f"{made.seeds} seeds; {runs}declared as {made.digest()}; {'; '.join(made_by)}.", ""]


def told(found: Gain) -> str:
    """A gain in figures."""
    return f"{found.mean:+.4g} [{found.low:+.4g}, {found.high:+.4g}]"


def findings_page(judged: Sequence[Judged], made: Mapping[str, Any], folder: Path) -> str:
    """What held, what did not, what cannot be told; `folder` holds how long the quick form took, and
    why methods are not declared.
    """
    declared = {slug: each for slug, each in made.items() if each["declarations"]}
    unrun = {each.declaration.slug for each in latest(judged) if not each.record.complete}
    ended = {slug: each for slug, each in declared.items() if slug not in unrun}
    counts = {word: [slug for slug, each in ended.items() if each["verdict"] == word] for word in _TITLES}
    lines = ["# Findings: published claims, judged by one protocol", ""]
    lines += ["Generated by `make evidence` from the [claims](claims.md); rules in [the protocol](../evidence.md).", ""]
    shares = ", ".join(f"{len(slugs)} {word} ({len(slugs) / max(1, len(ended)):.0%})" for word, slugs in counts.items())
    lines += [
        f"Of {len(made)} methods with a claim, {len(declared)} are declared and {len(ended)} were judged: {shares}.",
        "",
    ]
    lines += [*false_positives(latest(judged)), *running_time(judged, folder), ""]
    for word, title in _TITLES.items():
        lines += [f"## {title}", "", "| method | claim | gain | why |", "|---|---|---|---|"]
        lines += [row for slug in counts[word] for row in _rows(slug, ended[slug])]
        lines += [""]
    lines += [
        "## Declared, and not run to the end",
        "",
        ", ".join(f"`{slug}`" for slug in sorted(unrun)) or "None.",
        "",
    ]
    lines += [
        "## Not declared yet",
        "",
        "Why not; earlier checks, without interval, null, control and ablation, are no verdict.",
        "",
    ]
    why = reasons(folder)
    for slug in sorted(set(made) - set(declared)):
        before = made[slug].get("earlier")
        said = "" if before is None else f" (an earlier check said {'' if before['shown'] else 'not '}shown)"
        lines.append(f"- `{slug}`: {why.get(slug, 'no reason is given')}{said}")
    return "\n".join([*lines, ""])


def reasons(folder: Path) -> dict[str, str]:
    """Why methods are not declared, by slug; none where nothing is written down."""
    path = folder / UNDECLARED
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def _rows(slug: str, each: Mapping[str, Any]) -> list[str]:
    rows = []
    for made in {d["name"]: d for d in each["declarations"]}.values():
        gain = made["gains"].get("judged")
        figures = "–" if gain is None else f"{gain[0]:+.3g} [{gain[1]:+.3g}, {gain[2]:+.3g}]"
        rows.append(f"| `{made['name']}` | {made['claim']} | {figures} | {made['verdict']}: {made['reason']} |")
    return rows


def false_positives(judged: Sequence[Judged]) -> list[str]:
    """How often a method was told from itself."""
    nulls = [(each, each.judgement.gains["null"]) for each in judged if "null" in each.judgement.gains]
    if not nulls:
        return ["No check has run to its end."]
    apart = sum(gain.low > 0 or gain.high < 0 for _, gain in nulls)
    shown = sum(gain.low > each.declaration.statistic.effect for each, gain in nulls)
    broken = [f"`{each.declaration.name}` ({each.judgement.reason})" for each in judged if each.judgement.broken]
    return [
        f"- Nulls: in {shown} of {len(nulls)} ({shown / len(nulls):.1%}) a method was shown to beat itself, and in "
        f"{apart} ({apart / len(nulls):.1%}) the interval left zero out, on either side; by chance that would be 5 %.",
        f"- Broken checks, which count as no evidence: {', '.join(broken) or 'none'}.",
    ]


def running_time(judged: Sequence[Judged], folder: Path) -> list[str]:
    """What `make evidence` computed, what it still lacks, and how long its quick form takes."""
    current = latest(judged)
    # A run that several checks share is written down for each, with the same seconds and value: it counts once.
    lines = {(x.ground, x.luck, x.value, x.seconds, x.clock) for each in current for x in each.record.lines.values()}
    took = {clock: sum(seconds for *_, seconds, of in lines if of == clock) / 60 for clock in ("processor", "wall")}
    left, unknown = 0.0, 0
    for each in current:
        have = each.record.lines.values()
        wanted = (len(each.declaration.contenders) + 1) * each.declaration.seeds
        if have:
            left += (wanted - len(have)) * sum(line.seconds for line in have) / len(have) / 60
        unknown += not have
    told_of = [
        f"- `make evidence`: {took['processor']:.0f} minutes of processor time so far and, for the first runs, which "
        f"were timed so, {took['wall']:.0f} of wall time; a run that several checks share counts once. What is begun "
        f"lacks about {left:.0f} more, by the runs that it has; {unknown} checks have no run to tell by."
    ]
    quick = folder / QUICK
    if quick.exists():
        found = json.loads(quick.read_text(encoding="utf-8"))
        told_of.append(
            f"- `make evidence-quick`: {found['processor'] / 60:.1f} minutes of processor time for {found['checks']} "
            f"checks ({found['date']}; {found['made_by']})."
        )
    return told_of
