"""The named experiments, the frozen-decoder experiment and the mistakes of the original one."""
