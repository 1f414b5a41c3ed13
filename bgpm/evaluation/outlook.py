"""What to expect from the next rounds, as the report shows it: plain values for JSON, None where there are none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bgpm.evaluation.forecast import HORIZON, MINIMUM_POINTS, Backtest, Forecast, backtest, forecast

ROUNDS = 4  # shown one by one
GAINS = (0.01, 0.02, 0.05)  # of accuracy, whose price in labels is asked


def outlook(labels: np.ndarray, accuracy: np.ndarray, pool: int, rng: np.random.Generator) -> dict[str, Any]:
    """Forecast of the next rounds, labels left to higher accuracies, and the coverage of earlier forecasts.

    Rounds to come are as large as the last one, while the pool has pairs.

    Args:
        labels: [T], labels at each point.
        accuracy: [S, T], held-out accuracy.
        pool: Pairs that can be acquired in all.
        rng: Makes the draws.

    Returns:
        ``rounds``, ``reach``, ``backtest`` and ``horizon``, the multiple of the labels so far beyond which nothing is
        forecast, or where the pool ends; only ``missing``, in words, where there are too few points or no pair is left.
    """
    if len(labels) < MINIMUM_POINTS:
        return {"missing": f"a forecast needs {MINIMUM_POINTS} points of the curve, here are {len(labels)}"}
    labels = np.asarray(labels, np.float64)
    if labels[-1] >= pool:
        return {"missing": "every pair of the pool is acquired"}
    to_come = labels[-1] + (labels[-1] - labels[-2]) * np.arange(1, ROUNDS + 1)
    made = forecast(labels, accuracy, np.unique(np.minimum(to_come, pool)), rng=rng)
    horizon = min(HORIZON, pool / labels[-1])
    tested = backtest(labels, accuracy, rng=rng)
    return {
        "rounds": [
            {"labels": round(n), "accuracy": _short(m), "low": _short(max(low, 0.0)), "high": _short(min(high, 1.0))}
            for n, m, low, high in zip(*(v.tolist() for v in (made.at, made.median, made.low, made.high)), strict=True)
        ],
        "reach": _reach(made, horizon),
        "backtest": None if tested is None else _tested(tested),
        "horizon": _short(horizon),
    }


def _reach(made: Forecast, horizon: float) -> list[dict[str, Any]]:
    order = np.argsort(made.start + made.gain)
    now = float((made.start + made.gain)[order][np.searchsorted(np.cumsum(made.weight[order]), 0.5)])
    found = []
    for gain in GAINS:
        if now + gain < 1:
            reach = made.labels_to(now + gain, horizon)
            ends = {name: _whole(getattr(reach, name)) for name in ("labels", "low", "high")}
            found.append({"target": _short(now + gain), "gain": gain, **ends, "probability": _short(reach.probability)})
    return found


def _tested(tested: Backtest) -> dict[str, Any]:
    return {
        name: {
            "forecasts": int(rows.sum()),
            "inside": int(tested.inside[rows].sum()),
            "error": _short(float(np.abs(tested.measured - tested.median)[rows].mean())),
        }
        for name, rows in (("next_round", tested.ahead == 1), ("all_rounds", tested.ahead >= 1))
    }


def _short(value: float) -> float:
    return round(value, 6)


def _whole(value: float) -> int | None:
    return round(value) if math.isfinite(value) else None
