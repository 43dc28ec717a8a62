//! The settings in force: those of the cluster, where a request does not bring its own.

use policy_model::IpamConfigSpec;

/// Most blocks of one family that a node owns where nothing else is said.
pub const DEFAULT_MAX_BLOCKS: u32 = 20;

/// Settings, resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a node takes addresses only from its own blocks.
    pub strict_affinity: bool,
    /// Whether nodes claim blocks by themselves.
    pub auto_allocate_blocks: bool,
    /// Most blocks of one family that a node owns.
    pub max_blocks: u32,
}

/// Resolves the settings. An absent object means the defaults, 0 blocks means [`DEFAULT_MAX_BLOCKS`].
pub fn resolve(config: Option<&IpamConfigSpec>, strict: Option<bool>, max_blocks: Option<u32>) -> Settings {
    let default = IpamConfigSpec::default();
    let config = config.unwrap_or(&default);
    let limit = max_blocks
        .filter(|n| *n > 0)
        .unwrap_or(config.max_blocks_per_host);
    Settings {
        strict_affinity: strict.unwrap_or(config.strict_affinity),
        auto_allocate_blocks: config.auto_allocate_blocks,
        max_blocks: if limit == 0 { DEFAULT_MAX_BLOCKS } else { limit },
    }
}
