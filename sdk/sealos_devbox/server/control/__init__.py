"""The control plane: v1 and v2alpha of the current lineage, the flat routes of the older one."""
