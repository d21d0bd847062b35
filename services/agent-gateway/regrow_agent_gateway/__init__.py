"""The gateway between agents and the bus: their doors, their tokens, their conversations, how they are started."""
