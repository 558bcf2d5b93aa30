"""The demo's training run, internal, for `stepreel.cli`: a policy search over cart-poles that Newton simulates."""
