"""Studies: ablations of the method over seeds, on markets and on real logs."""
