"""A study as text: the report, all trials as CSV, the best weights."""

import csv
import io

from .study import Row, Study


def report(study: Study, count: int = 5) -> str:
    """What was searched, how many trials, the best ones, their hold-out scores, and the importance of each parameter."""
    rows = study.rows()
    complete = sum(row.state == "complete" for row in rows)
    failed = [row for row in rows if row.state == "failed"]
    lines = [
        f"Study: {study.name}",
        f"Space: {study.space.text} ({study.space.layout.name}, {len(study.space.parameters)} free weights)",
        f"Scores: {', '.join(study.directions)}",
        f"Trials: {complete} with a score, {len(failed)} failed, {sum(row.state == 'running' for row in rows)} running",
    ]
    if errors := list(dict.fromkeys(row.error for row in failed if row.error)):
        lines.append(f"Errors: {' '.join(errors[:3])}")
    best = study.best(count)
    if best:
        head = "Best trials:" if len(study.directions) == 1 else "Trials that no other beats in all scores:"
        lines += ["", head, *(_line(row) for row in best)]
    if importance := study.importance():
        lines += ["", "Importance (PED-ANOVA, share of what separates good trials from the rest):"]
        lines += [
            f"{name:<16} {share:>7.3f}" for name, share in sorted(importance.items(), key=lambda e: -e[1])
        ]
    return "\n".join(lines)


def _line(row: Row) -> str:
    scores = ", ".join(f"{score:.5g}" for score in row.scores)
    holdout = (
        f"; on other seeds and prompts {', '.join(f'{score:.5g}' for score in row.holdout)}"
        if row.holdout
        else ""
    )
    return f"trial {row.number}: {scores}{holdout}\n  {row.weights}"


def csv_text(study: Study) -> str:
    """All trials: number, state, scores, hold-out scores, parameters, weights, seconds, error."""
    names = list(study.space.parameters)
    scores = (
        ["score"] if len(study.directions) == 1 else [f"score_{i + 1}" for i in range(len(study.directions))]
    )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    holdouts = [f"holdout_{name}" for name in scores]
    writer.writerow(["trial", "state", *scores, *holdouts, *names, "weights", "seconds", "error"])
    for row in study.rows():
        empty = [""] * len(scores)
        values = [row.values.get(name, "") for name in names]
        writer.writerow(
            [
                row.number,
                row.state,
                *(row.scores or empty),
                *(row.holdout or empty),
                *values,
                row.weights,
                row.seconds,
                row.error,
            ]
        )
    return buffer.getvalue()
