"""The planner: passes from graph to graph, one file each, in the order that `plan` holds."""
