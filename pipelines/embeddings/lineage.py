"""Sends OpenLineage run events (specification 2-0-2) of a bulk embedding run."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app import __version__
from app.errors import MissingExtra
from pipelines.embeddings.job import EmbedJob

log = logging.getLogger(__name__)

_PRODUCER = f"urn:ostiary:{__version__}:pipelines.embeddings"


class Lineage:
    """Tells where a run reads and writes.

    Args:
        target: an HTTP address of an OpenLineage collector, or the path of a file that gets
            one line an event; None tells nobody.
        run_id: a UUID.

    Raises:
        MissingExtra: a target is given and ``openlineage-python`` is not installed.
    """

    def __init__(self, target: str | None, job: EmbedJob, run_id: str) -> None:
        self._client: Any = None
        self._job, self._run_id = job, run_id
        if target is None:
            return
        try:
            from openlineage.client import OpenLineageClient
            from openlineage.client.transport.file import FileConfig, FileTransport
            from openlineage.client.transport.http import HttpConfig, HttpTransport
        except ImportError as error:
            raise MissingExtra("OpenLineage", "pipelines") from error
        if target.startswith(("http://", "https://")):
            # a collector that is down must not hold a run up for long
            config = HttpConfig(url=target, timeout=3, retry={"total": 2, "backoff_factor": 0.2})
            self._client = OpenLineageClient(transport=HttpTransport(config))
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            file = FileTransport(FileConfig(log_file_path=target, append=True))
            self._client = OpenLineageClient(transport=file)

    def tell(
        self,
        state: str,
        *,
        rows_in: int | None = None,
        rows_out: int | None = None,
        bytes_out: int | None = None,
        files_out: int | None = None,
        error: str | None = None,
    ) -> None:
        """Send one event; a collector that does not answer costs the run nothing but a line.

        Args:
            state: START, RUNNING, COMPLETE, ABORT or FAIL.
        """
        if self._client is None:
            return
        from openlineage.client import event_v2 as ol
        from openlineage.client.facet_v2 import (
            error_message_run,
            input_statistics_input_dataset,
            output_statistics_output_dataset,
            processing_engine_run,
        )

        engine = processing_engine_run.ProcessingEngineRunFacet(__version__, name="ostiary")
        run_facets: dict[str, Any] = {"processing_engine": engine}
        if error is not None:
            run_facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "python")
        inputs = [ol.InputDataset(*_dataset(url)) for url in self._job.inputs]
        if rows_in is not None and len(inputs) == 1:
            count = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=rows_in
            )
            inputs[0].inputFacets = {"inputStatistics": count}
        output = ol.OutputDataset(*_dataset(self._job.output))
        if rows_out is not None:
            facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
                rowCount=rows_out, size=bytes_out, fileCount=files_out
            )
            output.outputFacets = {"outputStatistics": facet}
        namespace, name = _dataset(self._job.output)
        event = ol.RunEvent(
            eventTime=datetime.datetime.now(datetime.UTC).isoformat(),
            producer=_PRODUCER,
            run=ol.Run(self._run_id, run_facets),
            job=ol.Job("ostiary", f"pipeline.embed.{namespace}/{name.lstrip('/')}"),
            eventType=ol.RunState(state),
            inputs=inputs,
            outputs=[output],
        )
        try:
            self._client.emit(event)
        except Exception as failure:
            log.warning("the lineage event %s was not sent: %s", state, failure)


def _dataset(url: str) -> tuple[str, str]:
    """Return namespace and name as OpenLineage's naming rules have them."""
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return "file", str(Path(parts.path if parts.scheme else url).absolute())
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
