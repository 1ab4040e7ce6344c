"""From levels and blocks to a verdict: measurement, statistics, baselines, timings and the pytest plugin."""
