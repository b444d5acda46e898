"""The MADDPG update in plain torch: no Ray, environments, files or clocks."""
