"""The demo's training run: a policy search over a few dozen cart-poles simulated by Newton."""
