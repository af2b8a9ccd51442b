"""What is optimised and what must hold: objectives, bounds, Pareto fronts."""
