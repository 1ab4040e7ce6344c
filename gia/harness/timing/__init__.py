"""What something costs, as ratios that hold on a busy machine: against a goal, or against another commit."""
