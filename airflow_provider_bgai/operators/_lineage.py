"""What a task tells of its data: assets that other DAGs wait for, and inputs and outputs for OpenLineage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import Asset, AssetAlias
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS, AIRFLOW_V_3_1_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage


def alias(name: str) -> list[AssetAlias]:
    """What a task updates whose asset is known when it runs; nothing before Airflow 3.0.

    There an alias that is not in the database, as in ``dag.test()``, ends the task, so its author has to name it.
    """
    return [AssetAlias(name=name)] if AIRFLOW_V_3_0_PLUS else []


def update(context: Context, outlets: Iterable[Any], uri: str, extra: Mapping[str, Any]) -> None:
    """Give each asset's event its extra, and let each alias stand for the asset of ``uri``.

    :param extra: small JSON.
    """
    # An event by an alias is hashed by its extra before 3.1, which takes no lists and mappings.
    flat = extra if AIRFLOW_V_3_1_PLUS else {name: it for name, it in extra.items() if not isinstance(it, dict | list)}
    for each in outlets:
        event = context["outlet_events"][each]
        if isinstance(each, AssetAlias):
            event.add(Asset(uri=uri), extra=dict(flat))
        else:
            event.extra = dict(extra)


class OpenLineage:
    """An operator that says what it has read and written. OpenLineage's provider asks it, where that is installed.

    :ivar reads, writes: URIs or local paths, set while the task runs.
    """

    reads: Sequence[str] = ()
    writes: Sequence[str] = ()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage:
        """Inputs and outputs; after a failure, too."""
        from airflow.providers.common.compat.openlineage.facet import Dataset
        from airflow.providers.openlineage.extractors import OperatorLineage

        inputs, outputs = ([Dataset(*dataset_name(uri)) for uri in uris] for uris in (self.reads, self.writes))
        return OperatorLineage(inputs=inputs, outputs=outputs)


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace and name as OpenLineage spells them, without what may be secret in a link: its query and its user."""
    from airflow_provider_bgai.sources import shown

    scheme, mark, rest = shown(uri).partition("://")
    if not mark:
        return "file", uri
    host, _, path = rest.partition("/")
    return f"{scheme}://{host}", path.rstrip("/") or "/"
