"""Reading what rho and the switch weights of trained networks became."""
