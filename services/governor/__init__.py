"""Resources: what there is, who may use it, who has to wait; and the agent that rotates logs and cleans up."""
