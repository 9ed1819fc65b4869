"""What a dump takes and a restore puts back: one module for each thing on the machine that is touched."""
