"""From a table of blocks to a verdict: the register, statistics, rules, and the search for counterexamples."""
