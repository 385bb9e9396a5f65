//! I/O manager: symbolic links to devices (`wdm.h`).
#![expect(non_snake_case, reason = "the names are the NT API's own")]

use super::enter::enter;
use super::foreign;
use super::objects::Link;
use super::types::{Address, NTSTATUS};
use super::{Kernel, Trouble};
use crate::status::Status;

/// The folders of the object manager that hold the links of all users.
const LINK_FOLDERS: [&str; 3] = [r"\??\", r"\dosdevices\", r"\global??\"];

/// In a link folder, leads to the folder of the links of all users.
const GLOBAL: &str = r"global\";

/// The name of a link without its folder, in lower case.
fn link_name(path: &str) -> Option<String> {
    let path = path.to_ascii_lowercase();
    let name = LINK_FOLDERS.iter().find_map(|folder| path.strip_prefix(folder))?;
    Some(name.strip_prefix(GLOBAL).unwrap_or(name).to_owned())
}

fn string(address: Address) -> Result<String, Trouble> {
    foreign::read_unicode_string(address).map_err(|bad| Trouble::String(address, bad))
}

/// `IoCreateSymbolicLink`.
pub extern "win64" fn IoCreateSymbolicLink(SymbolicLinkName: Address, DeviceName: Address) -> NTSTATUS {
    let kernel = enter!(IoCreateSymbolicLink);
    let create = || Ok::<_, Trouble>(kernel.create_link(&string(SymbolicLinkName)?, string(DeviceName)?));
    kernel.settle(create(), Status::UNSUCCESSFUL).0
}

/// `IoDeleteSymbolicLink`.
pub extern "win64" fn IoDeleteSymbolicLink(SymbolicLinkName: Address) -> NTSTATUS {
    let kernel = enter!(IoDeleteSymbolicLink);
    let delete = || Ok::<_, Trouble>(kernel.delete_link(&string(SymbolicLinkName)?));
    kernel.settle(delete(), Status::UNSUCCESSFUL).0
}

impl Kernel {
    /// Makes a link from a path such as `\??\Sample` to a device's name.
    pub(super) fn create_link(&self, link: &str, device: String) -> Status {
        let Some(name) = link_name(link) else {
            return Status::OBJECT_PATH_NOT_FOUND;
        };
        let driver = self.caller();
        let mut objects = self.objects();
        if objects.links.contains_key(&name) {
            return Status::OBJECT_NAME_COLLISION;
        }
        objects.links.insert(name, Link { driver, device });
        Status::SUCCESS
    }

    /// Removes a link.
    pub(super) fn delete_link(&self, link: &str) -> Status {
        let removed = link_name(link).and_then(|name| self.objects().links.remove(&name));
        removed.map_or(Status::OBJECT_NAME_NOT_FOUND, |_| Status::SUCCESS)
    }

    /// The device that a path leads to, and the rest of the path after its name.
    /// The path may be a device's (`\Device\Sample`), a link's (`\??\Sample`), or as
    /// a program writes it (`\\.\Sample`).
    pub(super) fn find_device(&self, path: &str) -> Option<(Address, String)> {
        let path = match path.strip_prefix(r"\\.\") {
            Some(name) => format!(r"\??\{name}"),
            None => path.to_owned(),
        };
        let objects = self.objects();
        let target = match link_name(&path) {
            None => path.clone(),
            Some(name) => {
                let (link, rest) = name.split_at(name.find('\\').unwrap_or(name.len()));
                let rest = &path[path.len() - rest.len()..];
                format!("{}{rest}", objects.links.get(link)?.device)
            }
        };
        let live = objects.devices.iter().filter(|(_, device)| !device.deleted && !device.name.is_empty());
        let mut found = live.filter_map(|(address, device)| {
            let rest = strip_prefix_ignoring_case(&target, &device.name)?;
            (rest.is_empty() || rest.starts_with('\\')).then(|| (*address, rest.to_owned()))
        });
        found.next()
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

#[cfg(test)]
mod tests {
    use super::link_name;

    /// `\DosDevices\Global\Name` is the form for all users ("Local and Global MS-DOS Device
    /// Names").
    #[test]
    fn every_folder_leads_to_the_links_of_all_users() {
        for path in [
            r"\??\Sample",
            r"\DosDevices\Sample",
            r"\GLOBAL??\Sample",
            r"\DosDevices\Global\Sample",
            r"\??\GLOBAL\Sample",
        ] {
            assert_eq!(link_name(path).as_deref(), Some("sample"), "{path}");
        }
        assert_eq!(link_name(r"\Device\Sample"), None);
    }
}
