//! The profiles of networks.

/// The name and the number of each profile. Headers and documents do not have the
/// numbers. They are those of published outputs of `netsh wfp show state`: Windows'
/// own rules for public and for private networks have filters for 1 and for 2; 3 is
/// what is left.
pub const PROFILES: [(&str, u32); 3] = [("public", 1), ("private", 2), ("domain", 3)];

/// A set of profiles. Zero means empty, so that it can be made in zeroed memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Profiles(u32);

impl Profiles {
    /// No profiles.
    pub const NONE: Self = Self(0);

    /// Whether no profile is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many profiles are in it.
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether a profile is in it. The engine may pass any number.
    pub const fn contains(self, profile: u32) -> bool {
        match 1u32.checked_shl(profile) {
            Some(bit) => self.0 & bit != 0,
            None => false,
        }
    }

    /// Adds one of [`PROFILES`].
    pub const fn insert(&mut self, profile: u32) {
        if let Some(bit) = 1u32.checked_shl(profile) {
            self.0 |= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_inserted_and_no_other_number() {
        for (_, profile) in PROFILES {
            let mut set = Profiles::NONE;
            set.insert(profile);
            for other in (0..70).chain([u32::MAX]) {
                assert_eq!(set.contains(other), other == profile, "{profile} {other}");
            }
            assert_eq!(set.count(), 1);
            assert!(!set.is_empty() && Profiles::NONE.is_empty());
        }
    }
}
