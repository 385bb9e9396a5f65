//! A unique name for a namespace, for `ip netns`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};

use super::Namespace;

/// The maximum number of names at the same time.
const MOST: u32 = 64;
/// The content of the lock file while the name is attached.
const ATTACHED: &str = "attached";

/// A name for `ip netns exec`, valid while this exists.
///
/// `ip netns attach` binds a name for the whole machine, and the name stays if the
/// process is killed. A lock file distinguishes a name in use from one that was
/// left behind.
pub struct Named {
    name: String,
    /// `None` after the name was released.
    lock: Option<Flock<File>>,
}

impl Named {
    /// Attaches the first free name of `stem`, `stem-2`, `stem-3`; `None` if this
    /// process may not name a namespace.
    pub fn attach(stem: &str, namespace: &Namespace) -> Option<Self> {
        Self::attach_in(Path::new("/run/lock"), stem, &|name| {
            ip(&["netns", "attach", name, &namespace.tid().to_string()])
        })
    }

    fn attach_in(locks: &Path, stem: &str, attach: &dyn Fn(&str) -> bool) -> Option<Self> {
        let names = (2..=MOST).map(|number| format!("{stem}-{number}"));
        for name in [stem.to_owned()].into_iter().chain(names) {
            // Without the lock, no other process could see that the name is in use.
            let Some(mut lock) = take(&locks.join(format!("wfp-machine-netns-{name}"))).ok()? else {
                continue;
            };
            if was_attached(&mut lock).ok()? {
                ip(&["netns", "delete", &name]);
                mark(&mut lock, "").ok()?;
            }
            // Another program may have a namespace with this name, which must stay.
            if attach(&name) {
                mark(&mut lock, ATTACHED).ok()?;
                return Some(Self { name, lock: Some(lock) });
            }
            if !taken(&name) {
                return None;
            }
        }
        None
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.name]);
        if let Some(lock) = &mut self.lock {
            let _best_effort = mark(lock, "");
        }
    }
}

/// Locks a file; `None` if another process has locked it.
fn take(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Whether an earlier owner has left the name attached.
fn was_attached(lock: &mut Flock<File>) -> io::Result<bool> {
    let mut text = String::new();
    lock.seek(SeekFrom::Start(0))?;
    lock.read_to_string(&mut text)?;
    Ok(text == ATTACHED)
}

fn mark(lock: &mut Flock<File>, text: &str) -> io::Result<()> {
    lock.set_len(0)?;
    lock.seek(SeekFrom::Start(0))?;
    lock.write_all(text.as_bytes())
}

fn taken(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stem that no other test process uses.
    fn stem() -> String {
        format!("wfp-machine-test-{}", std::process::id())
    }

    #[test]
    fn names_in_use_are_left_to_their_owners() {
        let locks = tempfile::tempdir().unwrap();
        let attach = || Named::attach_in(locks.path(), &stem(), &|_| true).unwrap();
        let (one, two) = (attach(), attach());
        assert_eq!((one.name(), two.name()), (&*stem(), &*format!("{}-2", stem())));
        drop(one);
        let three = attach();
        assert_eq!(three.name(), stem(), "a released name is free");
    }

    #[test]
    fn a_process_that_may_attach_nothing_has_no_name() {
        let locks = tempfile::tempdir().unwrap();
        assert!(Named::attach_in(locks.path(), &stem(), &|_| false).is_none());
        assert!(Named::attach_in(&locks.path().join("absent"), &stem(), &|_| true).is_none());
    }

    /// The name of a killed process is reused, the name of another program is not.
    #[test]
    fn a_left_name_is_taken_over_and_a_foreign_one_is_not() {
        let (Ok(namespace), true) = (Namespace::new(), nix::unistd::geteuid().is_root()) else {
            return;
        };
        let stem = format!("{}-real", stem());
        let Some(mut named) = Named::attach(&stem, &namespace) else {
            // In a user namespace root may not write to /run/netns.
            return;
        };
        assert!(taken(&stem));
        // The state after a kill: the name is attached, the lock is free.
        drop(named.lock.take());
        std::mem::forget(named);
        let again = Named::attach(&stem, &namespace).unwrap();
        assert_eq!(again.name(), stem);
        // Another program's name: attached, without a lock file.
        drop(again);
        assert!(!taken(&stem));
        assert!(ip(&["netns", "attach", &stem, &namespace.tid().to_string()]));
        let beside = Named::attach(&stem, &namespace).unwrap();
        assert_eq!(beside.name(), format!("{stem}-2"));
        assert!(taken(&stem), "it still belongs to the other program");
        assert!(ip(&["netns", "delete", &stem]));
        drop(beside);
        for name in [stem.clone(), format!("{stem}-2")] {
            let _gone =
                std::fs::remove_file(Path::new("/run/lock").join(format!("wfp-machine-netns-{name}")));
        }
    }
}
