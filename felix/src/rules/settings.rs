//! What the settings say of iptables, in the dataplane's terms.

use crate::agent::RefreshIntervals;
use crate::settings::Settings;
use crate::settings::parse::{AllowAction as AllowSetting, InsertMode};
use dataplane::{IptablesSettings, RulesBackend};
use dataplane_iptables::layout::{AllowAction, Marks};
use dataplane_iptables::ops::Place;
use dataplane_iptables::programs::{BackendChoice, LockSettings, ProgramSettings};
use std::path::PathBuf;
use std::time::Duration;

/// Where the programs of iptables are, and how they are run.
pub(crate) fn programs(settings: &Settings) -> ProgramSettings {
    ProgramSettings {
        lock: LockSettings {
            wait: settings.iptables_lock_timeout,
            probe: settings.iptables_lock_probe_interval,
            file: PathBuf::from(&settings.iptables_lock_file_path),
        },
        ..ProgramSettings::default()
    }
}

/// Settings of the iptables driver, with the programs of this choice.
pub(crate) fn iptables(settings: &Settings, choice: BackendChoice) -> IptablesSettings {
    IptablesSettings {
        choice,
        programs: programs(settings),
        // The parser has let in only masks with a bit for us.
        marks: Marks::from_mask(settings.iptables_mark_mask).unwrap_or_default(),
        place: match settings.chain_insert_mode {
            InsertMode::Insert => Place::First,
            InsertMode::Append => Place::Last,
        },
        allow: match settings.iptables_filter_allow_action {
            AllowSetting::Accept => AllowAction::Accept,
            AllowSetting::Return => AllowAction::Return,
        },
        max_set_elements: u32::try_from(settings.max_ipset_size).unwrap_or(u32::MAX),
        look_after: settings.iptables_post_write_check_interval,
    }
}

/// How often what is in force is compared with the kernel.
pub(crate) fn refresh(settings: &Settings, backend: &RulesBackend) -> RefreshIntervals {
    let (policy, sets) = match backend {
        RulesBackend::Nftables => (settings.nftables_refresh_interval, Duration::ZERO),
        RulesBackend::Iptables(_) => (
            settings.iptables_refresh_interval,
            settings.ipsets_refresh_interval,
        ),
    };
    RefreshIntervals {
        policy,
        sets,
        routes: settings.route_refresh_interval,
        interfaces: settings.interface_refresh_interval,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Layer, Layers, Source};
    use dataplane_iptables::programs::Variant;

    fn settings(stated: &[(&str, &str)]) -> Settings {
        let mut layer = Layer::new(Source::Environment);
        for (name, value) in stated {
            layer = layer.with(name, *value);
        }
        let mut layers = Layers::new(Some("a".into()));
        layers.put(layer);
        layers.resolve().unwrap().settings
    }

    #[test]
    fn what_is_set_arrives() {
        let stated = settings(&[
            ("IptablesMarkMask", "0x00f0c000"),
            ("ChainInsertMode", "Append"),
            ("IptablesFilterAllowAction", "return"),
            ("MaxIpsetSize", "1000"),
            ("IptablesPostWriteCheckIntervalSecs", "7"),
            ("IptablesLockTimeoutSecs", "3"),
            ("IptablesLockProbeIntervalMillis", "20"),
            ("IptablesLockFilePath", "/run/other.lock"),
            ("IptablesRefreshInterval", "11"),
            ("IpsetsRefreshInterval", "12"),
            ("NftablesRefreshInterval", "13"),
        ]);
        let own = iptables(&stated, BackendChoice::Legacy);
        assert_eq!(own.choice, BackendChoice::Legacy);
        assert_eq!(own.marks, Marks { accept: 0x10_0000 });
        assert_eq!((own.place, own.allow), (Place::Last, AllowAction::Return));
        assert_eq!(own.max_set_elements, 1000);
        let seconds = Duration::from_secs;
        assert_eq!(own.look_after, seconds(7));
        let lock = LockSettings {
            wait: seconds(3),
            probe: Duration::from_millis(20),
            file: "/run/other.lock".into(),
        };
        assert_eq!(own.programs.lock, lock);
        let intervals = refresh(&stated, &RulesBackend::Iptables(own));
        assert_eq!((intervals.policy, intervals.sets), (seconds(11), seconds(12)));
        let intervals = refresh(&stated, &RulesBackend::Nftables);
        assert_eq!((intervals.policy, intervals.sets), (seconds(13), Duration::ZERO));
    }

    #[test]
    fn without_settings_it_is_the_drivers_own_way() {
        let usual = iptables(&Settings::built_in(), BackendChoice::Nft);
        assert_eq!(usual, IptablesSettings::of(Variant::Nft));
    }
}
