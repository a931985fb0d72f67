"""A run's configuration as TensorBoard's hyper-parameters, in the event file of the run itself."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tensorboardX.proto.api_pb2 import DataType, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionStartInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata

__all__ = ['flatten', 'hparams_values']

_LONGEST = 200
"""Most characters of a value."""


def flatten(configuration: Mapping[Any, Any], prefix: str = '') -> Iterator[tuple[str, bool | float | str]]:
    """Yield nested values by their dotted names, each as a bool, a number or a short text.

    Example:
        >>> dict(flatten({'policy': {'cuda': False, 'batch_size': 19, 'shape': (3, 64)}, 'seed': None}))
        {'policy.cuda': False, 'policy.batch_size': 19.0, 'policy.shape': '(3, 64)', 'seed': 'None'}
    """
    for key, value in configuration.items():
        name = f'{prefix}{key}'
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f'{name}.')
        elif isinstance(value, bool):
            yield name, value
        elif isinstance(value, numbers.Real) and math.isfinite(value):
            yield name, float(value)
        else:
            # Non-finite numbers become text too, because the plugin's tables are JSON, which cannot hold them.
            text = value if isinstance(value, str) else repr(value)
            yield name, text if len(text) <= _LONGEST else f'{text[: _LONGEST - 1]}…'


def hparams_values(configuration: Mapping[str, Any], metrics: Iterable[str], started: float) -> list[Summary.Value]:
    """Return the summaries that show a run as a row of TensorBoard's *HParams* table.

    Arguments:
        configuration: nested configuration of the run.
        metrics: names of the scalars shown in the same row.
        started: start of the run in seconds since 1970.
    """
    experiment = Experiment(time_created_secs=started)
    session = SessionStartInfo(start_time_secs=started)
    for name, value in flatten(configuration):
        if isinstance(value, bool):
            session.hparams[name].bool_value = value
            kind = 'DATA_TYPE_BOOL'
        elif isinstance(value, float):
            session.hparams[name].number_value = value
            kind = 'DATA_TYPE_FLOAT64'
        else:
            session.hparams[name].string_value = value
            kind = 'DATA_TYPE_STRING'
        experiment.hparam_infos.append(HParamInfo(name=name, type=DataType.Value(kind)))
    experiment.metric_infos.extend(MetricInfo(name=MetricName(tag=name)) for name in metrics)
    return [
        _value('_hparams_/experiment', HParamsPluginData(experiment=experiment, version=0)),
        _value('_hparams_/session_start_info', HParamsPluginData(session_start_info=session, version=0)),
    ]


def _value(tag: str, data: HParamsPluginData) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name='hparams', content=data.SerializeToString())
    return Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))
