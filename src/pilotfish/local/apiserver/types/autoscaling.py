"""HorizontalPodAutoscalers, at both of their versions, and Scale."""

from __future__ import annotations

from pilotfish.local.apiserver.types.declare import resource

RESOURCES = (
    resource(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short="hpa",
        all_category=True,
        status=True,
    ),
    resource(
        "autoscaling/v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        short="hpa",
        all_category=True,
        status=True,
    ),
)
