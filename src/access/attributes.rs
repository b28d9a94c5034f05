//! What a file has besides its bytes and times, as far as another that is made from it takes it over.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::acl::{ATTRIBUTE, Acl, DEFAULT};
use super::xattr::whole;

/// Labels of security modules that say who may use a file. Others are of its bytes (ima, evm), or would give rights to a program
/// (capability).
const LABELS: [&[u8]; 2] = [b"security.selinux", b"security.SMACK64"];
/// What the access control list is called where it is lost.
const ACCESS_LIST: &str = "access list";
/// Bits of directories besides the permissions: only owners may remove files; files have the directory's group.
const STICKY: u16 = 0o1000;
const SETGID: u16 = 0o2000;
/// What users and their programs keep with a file.
const USER: &[u8] = b"user.";

/// Owner, group, permission bits, access control list and extended attributes of a file; of a directory also its default list.
#[derive(Debug, Clone)]
pub struct Attributes {
    uid: u32,
    gid: u32,
    /// Permission bits, of a directory with [`STICKY`] and [`SETGID`].
    mode: u16,
    acl: Option<Acl>,
    default: Option<Acl>,
    others: Vec<(CString, Vec<u8>)>,
}

impl Attributes {
    /// Those of an open file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        let mut others = Vec::new();
        for name in names(file)? {
            match whole(|buffer| rustix::fs::fgetxattr(file, &name, buffer)) {
                Ok(value) => others.push((name, value)),
                Err(Errno::NODATA) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let kept = if meta.is_dir() { 0o777 | STICKY | SETGID } else { 0o777 };
        let default = if meta.is_dir() { Acl::default_of(file)? } else { None };
        let mode = bits(&meta) & kept;
        Ok(Self { uid: meta.uid(), gid: meta.gid(), mode, acl: Acl::of_file(file)?, default, others })
    }

    /// Gives all of them to a file that stands for this one from now on. Owner and group as far as the user may: only root may give
    /// files away, and of a group that cannot be given the permissions are none.
    ///
    /// # Errors
    /// Those of the system, of the first that cannot be given.
    pub fn give(&self, file: &File) -> io::Result<()> {
        self.give_or(file, &mut |what, error| {
            Err(if what == ACCESS_LIST { error } else { io::Error::new(error.kind(), format!("{what}: {error}")) })
        })
    }

    /// The same, as far as the file system keeps it; gives what it does not keep. Without the list nobody can read the file who
    /// cannot read this one.
    ///
    /// # Errors
    /// Those of the system when the permissions cannot be set.
    pub fn give_kept(&self, file: &File) -> io::Result<Option<String>> {
        let mut lost = Vec::new();
        self.give_or(file, &mut |what, _| {
            lost.push(what);
            Ok(())
        })?;
        Ok((!lost.is_empty()).then(|| lost.join(", ")))
    }

    fn give_or(&self, file: &File, lose: &mut dyn FnMut(String, io::Error) -> io::Result<()>) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let group =
            rustix::fs::fchown(file, Some(uid), Some(gid)).is_ok() || rustix::fs::fchown(file, None, Some(gid)).is_ok();
        let mut acl = self.acl.clone().unwrap_or_else(|| Acl::of_mode(self.mode));
        if !group {
            acl = acl.without_group(self.uid);
        }
        self.set(file, acl, group, lose)?;
        for (name, value) in &self.others {
            match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
                // The system labels files itself where it does not let users do it.
                Err(_) if LABELS.contains(&name.to_bytes()) => {}
                Err(errno) => lose(format!("extended attribute {}", name.to_string_lossy()), errno.into())?,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Takes from a new file what these do not allow, so that nobody can read it who cannot read this one, and gives it the named entries of the
    /// list and what users keep with the file. `own` are the attributes that the file would have by itself, if it has others now.
    /// Gives what could not be kept.
    ///
    /// # Errors
    /// Those of the system when the permissions cannot be set.
    pub fn bound(&self, file: &File, own: Option<Self>) -> io::Result<Option<String>> {
        let own = own.map_or_else(|| Self::of(file), Ok)?;
        let mut lost = Vec::new();
        self.set(file, self.combined(&own), self.gid == own.gid, &mut |what, _| {
            lost.push(what);
            Ok(())
        })?;
        for (name, value) in self.others.iter().filter(|(name, _)| name.to_bytes().starts_with(USER)) {
            if rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()).is_err() {
                lost.push(format!("extended attribute {}", name.to_string_lossy()));
            }
        }
        Ok((!lost.is_empty()).then(|| lost.join(", ")))
    }

    /// Opens a directory that was made for its owner alone to all that these, of another directory, allow, and no further. The
    /// owner stays, and may do everything in it.
    ///
    /// # Errors
    /// Those of the system when the permissions cannot be set.
    pub fn open_directory(&self, directory: &File) -> io::Result<()> {
        let meta = directory.metadata()?;
        let (uid, gid) = (meta.uid(), meta.gid());
        let own = Self { uid, gid, mode: 0o777, acl: None, default: None, others: Vec::new() };
        let acl = Acl { owner: 7, ..self.combined(&own) };
        self.set(directory, acl, self.gid == gid, &mut |_, _| Ok(()))
    }

    /// The same with all permissions for the owner.
    #[must_use]
    pub fn open_to_owner(mut self) -> Self {
        self.mode |= 0o700;
        self.acl = self.acl.map(|acl| Acl { owner: 7, ..acl });
        self
    }

    /// Sets permission bits and list, and the default list of a directory. `group` is whether the file's group is that of these.
    fn set(
        &self,
        file: &File,
        mut acl: Acl,
        group: bool,
        lose: &mut dyn FnMut(String, io::Error) -> io::Result<()>,
    ) -> io::Result<()> {
        let meta = file.metadata()?;
        let mut special = 0;
        if meta.is_dir() {
            let wanted = self.mode & (STICKY | SETGID) & if group { !0 } else { !SETGID };
            // Before the permissions, which are wider without them. Some systems refuse, others leave them out.
            let refused = rustix::fs::fchmod(file, Mode::from_raw_mode((bits(&meta) & 0o777 | wanted).into()));
            special = bits(&file.metadata()?) & wanted;
            let why = || refused.map_or_else(io::Error::from, |()| io::ErrorKind::Unsupported.into());
            for (bit, name) in [(STICKY, "sticky bit"), (SETGID, "setgid bit")] {
                if self.mode & !special & bit != 0 {
                    lose(name.to_owned(), why())?;
                }
            }
            if self.mode & !special & STICKY != 0 {
                acl = acl.read_only();
            }
        }
        match set(file, &acl, special) {
            Err(e) if acl.names_others() && Errno::from_io_error(&e) == Some(Errno::NOTSUP) => {
                lose(ACCESS_LIST.to_owned(), e)?;
                set(file, &Acl::of_mode(acl.mode(meta.uid(), meta.gid())), special)?;
            }
            set => set?,
        }
        if meta.is_dir() {
            let default = self.default.clone().map(|of| if group { of } else { of.without_group(self.uid) });
            set_default(file, default.as_ref()).or_else(|e| lose(format!("default {ACCESS_LIST}"), e))?;
        }
        Ok(())
    }

    /// The list of a new file that has `own` by the umask or its directory: what both allow, and whom this names.
    fn combined(&self, own: &Self) -> Acl {
        let from = self.acl.clone().unwrap_or_else(|| Acl::of_mode(self.mode));
        let new = own.acl.clone().unwrap_or_else(|| Acl::of_mode(own.mode));
        // Of users that only the new file's list has entries for, and of another group's, nothing is known.
        let least = from.least(self.uid);
        let same_group = self.gid == own.gid;
        let mut users: std::collections::BTreeMap<u32, u16> = from.masked_users().collect();
        for (user, permissions) in new.masked_users() {
            users.entry(user).or_insert(permissions & least);
        }
        let mut groups: std::collections::BTreeMap<u32, u16> = from.masked_groups().collect();
        for (group, permissions) in new.masked_groups() {
            groups.entry(group).or_insert(permissions & least);
        }
        let group = new.group_permissions() & from.group_permissions() & if same_group { 7 } else { least };
        let other = new.other & from.other & if same_group { 7 } else { least };
        let named = users.values().chain(groups.values()).fold(group, |any, permissions| any | permissions);
        // Without a list of the directory the umask bounds the named entries too.
        let umask = if own.acl.is_some() { 7 } else { own.mode >> 3 & 7 };
        let mask = (!users.is_empty() || !groups.is_empty()).then_some(named & umask);
        Acl { owner: new.owner & from.owner, users, group, groups, mask, other }
    }
}

/// Bits of a mode that are neither of the kind of file nor setuid.
fn bits(meta: &std::fs::Metadata) -> u16 {
    u16::try_from(meta.mode() & 0o3777).unwrap_or(0)
}

/// Sets the default list of a directory.
fn set_default(directory: &File, acl: Option<&Acl>) -> io::Result<()> {
    let set = match acl {
        Some(acl) => rustix::fs::fsetxattr(directory, DEFAULT, &acl.to_bytes(), XattrFlags::empty()),
        None if Acl::default_of(directory)?.is_none() => Ok(()),
        None => rustix::fs::fremovexattr(directory, DEFAULT),
    };
    Ok(set?)
}

/// Sets permission bits and list of a file, and the bits `special` of a directory, which it has already.
fn set(file: &File, acl: &Acl, special: u16) -> io::Result<()> {
    if acl.names_others() {
        rustix::fs::fsetxattr(file, ATTRIBUTE, &acl.to_bytes(), XattrFlags::empty())?;
        return Ok(());
    }
    match rustix::fs::fremovexattr(file, ATTRIBUTE) {
        Ok(()) | Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mode = special | acl.owner << 6 | acl.group_permissions() << 3 | acl.other;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))?)
}

/// The names of what is taken over.
fn names(file: &File) -> io::Result<Vec<CString>> {
    let list = match whole(|buffer| rustix::fs::flistxattr(file, buffer)) {
        Err(Errno::NOTSUP | Errno::NOSYS) => Vec::new(),
        list => list?,
    };
    let is_kept = |name: &&[u8]| name.starts_with(USER) || LABELS.contains(name);
    let names = list.split(|&byte| byte == 0).filter(is_kept);
    Ok(names.filter_map(|name| CString::new(name).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(gid: u32, mode: u16, acl: Option<Acl>) -> Attributes {
        Attributes { uid: 1, gid, mode, acl, default: None, others: Vec::new() }
    }

    fn bits(acl: &Acl) -> (u16, u16, u16) {
        (acl.owner, acl.group_permissions(), acl.other)
    }

    #[test]
    fn a_new_file_is_bound_by_what_it_is_made_from() {
        let plain = |mode, gid| bits(&attributes(20, mode, None).combined(&attributes(gid, 0o644, None)));
        assert_eq!(plain(0o600, 20), (6, 0, 0));
        assert_eq!(plain(0o640, 20), (6, 4, 0));
        assert_eq!(plain(0o640, 30), (6, 0, 0), "another group");
        assert_eq!(plain(0o644, 30), (6, 4, 4));
        assert_eq!(plain(0o444, 20), (4, 4, 4));
    }

    #[test]
    fn entries_are_carried_and_those_of_a_directory_are_bound() {
        let named = |users: &[(u32, u16)], mask| Acl {
            owner: 6,
            users: users.iter().copied().collect(),
            group: 4,
            mask: Some(mask),
            ..Acl::default()
        };
        let from = attributes(20, 0o640, Some(named(&[(7, 4)], 4)));
        let made = from.combined(&attributes(20, 0o644, None));
        assert_eq!((made.users.get(&7), made.mask, made.other), (Some(&4), Some(4), 0));
        assert_eq!(from.combined(&attributes(20, 0o600, None)).mask, Some(0), "the umask rules");
        // A directory's default list names a user that the input keeps out.
        let by_default = attributes(20, 0o660, Some(named(&[(8, 6)], 6)));
        let made = attributes(20, 0o640, None).combined(&by_default);
        assert_eq!((made.users.get(&8), made.group_permissions()), (Some(&0), 4));
        let made = attributes(20, 0o644, None).combined(&by_default);
        assert_eq!(made.users.get(&8), Some(&4));
    }
}
