"""From a protocol to a verdict: blocks, measurement, statistics, baselines, timings and the pytest plugin."""
