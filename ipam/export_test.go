package ipam

// OmitFence has a peer rely on what it had, however long it was away.
func (c *Config) OmitFence() { c.omit.fence = true }

// OmitAgreement has a peer take over the dead without asking anybody.
func (c *Config) OmitAgreement() { c.omit.agreement = true }

// OmitEpochs has a peer take over the dead as an operator would have it do.
func (c *Config) OmitEpochs() { c.omit.epochs = true }

// OmitSafeBirth has a vote not count who is in reach.
func (c *Config) OmitSafeBirth() { c.omit.birth = true }
