"""The parts of the Predict step: where, what comes out, how, the plan, the maps that fill in, what can go on."""
