"""The MADDPG update in pure torch: no Ray, no environment, no files, no clock."""
