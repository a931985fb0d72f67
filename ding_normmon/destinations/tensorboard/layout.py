"""Charts as TensorBoard's custom scalars, so that a run opens with a ready dashboard."""

from __future__ import annotations

from collections.abc import Iterable

from tensorboardX.proto import layout_pb2
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.proto.tensor_pb2 import TensorProto

from ding_normmon.destinations.tensorboard.charts import Category

__all__ = ['LAYOUT_TAG', 'layout_value']

LAYOUT_TAG = 'custom_scalars__config__'
"""The tag under which TensorBoard looks for a layout; the last layout of a run counts."""

_OPEN = 3
"""Number of categories that are open at first; every visible chart is a request to the server."""


def layout_value(categories: Iterable[Category]) -> Summary.Value:
    """Return the summary that makes TensorBoard draw these charts under *Custom Scalars*.

    Example:
        >>> from ding_normmon.destinations.tensorboard.charts import Chart
        >>> value = layout_value([Category('Shared modules', (Chart('Norms', r'^norm/encoder/_total_norm$'),))])
        >>> layout = layout_pb2.Layout.FromString(value.tensor.string_val[0])
        >>> layout.category[0].chart[0].multiline.tag
        ['^norm/encoder/_total_norm$']
    """
    layout = layout_pb2.Layout()
    for index, category in enumerate(categories):
        drawn = layout.category.add(title=category.title, closed=index >= _OPEN)
        for chart in category.charts:
            if chart.band is not None:
                line, lower, upper = chart.band
                drawn.chart.add(title=chart.title).margin.series.add(value=line, lower=lower, upper=upper)
            elif chart.expression is not None:
                drawn.chart.add(title=chart.title).multiline.tag.append(chart.expression)
    plugin = SummaryMetadata.PluginData(plugin_name='custom_scalars')
    tensor = TensorProto(dtype='DT_STRING', string_val=[layout.SerializeToString()])
    return Summary.Value(tag=LAYOUT_TAG, tensor=tensor, metadata=SummaryMetadata(plugin_data=plugin))
