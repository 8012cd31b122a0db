"""What the original's authors published (Yuan 2.0 technical report, repository): for reference, not measured here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Scores of one published model, as parts of 1, by task."""

    model: str
    scores: dict[str, float]


PUBLISHED = (
    Published(
        "Yuan2.0-102B-SC",
        {"humaneval": 0.774, "gsm8k": 0.862, "mathqa": 0.455, "mathcloze": 0.152, "truthfulqa": 0.58},
    ),
    Published(
        "Yuan2.0-102B",
        {"humaneval": 0.671, "gsm8k": 0.766, "mathqa": 0.387, "mathcloze": 0.135, "truthfulqa": 0.58},
    ),
    Published("Yuan2.0-51B", {"gsm8k": 0.763, "mathqa": 0.376, "mathcloze": 0.127}),
    Published("Yuan2.0-2B", {"humaneval": 0.549, "gsm8k": 0.666, "mathqa": 0.293, "mathcloze": 0.05}),
)
