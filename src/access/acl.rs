//! POSIX access control lists (acl(5)), as the extended attribute `system.posix_acl_access` has them.
//!
//! Read and written here and not by a package: those that exist bind the C library libacl, for sixty lines of wire format.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;

/// The extended attribute.
pub(super) const ATTRIBUTE: &str = "system.posix_acl_access";
/// That of a directory, with the list that files made in it begin with.
pub(super) const DEFAULT: &str = "system.posix_acl_default";
/// First word of the attribute: the version of its form.
const VERSION: u32 = 2;
/// An entry: tag, permissions, and a user or group where the tag takes one.
const ENTRY: usize = 8;
/// The user or group of an entry whose tag takes none.
const NO_ID: u32 = u32::MAX;

/// Permission to write, as a bit of one class.
const WRITE: u16 = 2;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// An access control list. Permissions are bits of one class, 0 to 7.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acl {
    pub(super) owner: u16,
    pub(super) users: BTreeMap<u32, u16>,
    pub(super) group: u16,
    pub(super) groups: BTreeMap<u32, u16>,
    /// Bounds all entries but those of the owner and of others.
    pub(super) mask: Option<u16>,
    pub(super) other: u16,
}

impl Acl {
    /// The list of an open file; `None` where there is none, or the file system has no lists.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::InvalidData`] for a list that is not understood.
    pub fn of_file(file: impl AsFd) -> io::Result<Option<Self>> {
        Self::read(|buffer| rustix::fs::fgetxattr(&file, ATTRIBUTE, buffer))
    }

    /// The default list of an open directory, for the files that are made in it.
    ///
    /// # Errors
    /// The same.
    pub(super) fn default_of(directory: impl AsFd) -> io::Result<Option<Self>> {
        Self::read(|buffer| rustix::fs::fgetxattr(&directory, DEFAULT, buffer))
    }

    /// The list of what `path` leads to.
    ///
    /// # Errors
    /// The same.
    pub fn of_path(path: &Path) -> io::Result<Option<Self>> {
        Self::read(|buffer| rustix::fs::getxattr(path, ATTRIBUTE, buffer))
    }

    fn read(get: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Option<Self>> {
        match super::xattr::whole(get) {
            Ok(bytes) => Self::parse(&bytes).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            Err(Errno::NODATA | Errno::NOTSUP | Errno::NOSYS) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The list that means what permission bits mean.
    #[must_use]
    pub fn of_mode(mode: u16) -> Self {
        Self { owner: mode >> 6 & 7, group: mode >> 3 & 7, other: mode & 7, ..Self::default() }
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, entries) = bytes.split_first_chunk()?;
        if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY != 0 {
            return None;
        }
        let mut acl = Self::default();
        for entry in entries.chunks_exact(ENTRY) {
            let (tag, rest) = entry.split_first_chunk()?;
            let (permissions, id) = rest.split_first_chunk()?;
            let permissions = u16::from_le_bytes(*permissions) & 7;
            let id = u32::from_le_bytes(id.try_into().ok()?);
            match u16::from_le_bytes(*tag) {
                OWNER => acl.owner = permissions,
                USER => _ = acl.users.insert(id, permissions),
                OWNING_GROUP => acl.group = permissions,
                GROUP => _ = acl.groups.insert(id, permissions),
                MASK => acl.mask = Some(permissions),
                OTHER => acl.other = permissions,
                _ => return None,
            }
        }
        Some(acl)
    }

    /// The attribute's bytes.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        let mut entry = |tag: u16, permissions: u16, id: u32| {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        };
        // The kernel takes entries in this order only.
        entry(OWNER, self.owner, NO_ID);
        self.users.iter().for_each(|(&user, &permissions)| entry(USER, permissions, user));
        entry(OWNING_GROUP, self.group, NO_ID);
        self.groups.iter().for_each(|(&group, &permissions)| entry(GROUP, permissions, group));
        self.mask.iter().for_each(|&mask| entry(MASK, mask, NO_ID));
        entry(OTHER, self.other, NO_ID);
        bytes
    }

    /// Whether it says more than permission bits can.
    pub(super) fn names_others(&self) -> bool {
        !self.users.is_empty() || !self.groups.is_empty()
    }

    /// The same without permission to write, but for the owner.
    pub(super) fn read_only(mut self) -> Self {
        let of_users = self.users.values_mut().chain(self.groups.values_mut());
        of_users.chain([&mut self.group, &mut self.other]).chain(&mut self.mask).for_each(|may| *may &= !WRITE);
        self
    }

    fn masked(&self, permissions: u16) -> u16 {
        permissions & self.mask.unwrap_or(7)
    }

    pub(super) fn group_permissions(&self) -> u16 {
        self.masked(self.group)
    }

    pub(super) fn masked_users(&self) -> impl Iterator<Item = (u32, u16)> {
        self.users.iter().map(|(&user, &permissions)| (user, self.masked(permissions)))
    }

    pub(super) fn masked_groups(&self) -> impl Iterator<Item = (u32, u16)> {
        self.groups.iter().map(|(&group, &permissions)| (group, self.masked(permissions)))
    }

    /// What every user but the owner `uid` has, whoever it is. Root counts for nothing: it needs no permission.
    pub(super) fn least(&self, uid: u32) -> u16 {
        let users = self.named_least(uid);
        self.masked_groups().fold(users & self.group_permissions() & self.other, |least, (_, of)| least & of)
    }

    /// The list of a file that could not be given its group. Members of that group are among the others now.
    pub(super) fn without_group(mut self, uid: u32) -> Self {
        self.other &= self.least(uid);
        self.group = 0;
        self
    }

    /// What every named user has.
    fn named_least(&self, uid: u32) -> u16 {
        let users = self.masked_users().filter(|(user, _)| ![0, uid].contains(user));
        users.fold(7, |least, (_, permissions)| least & permissions)
    }

    /// The widest permission bits of a file of `uid` and `gid` that allow no user more than the list.
    ///
    /// A named user may be in the group or among the others, so neither class has more than each named user has. A
    /// member of a named group has what the owning group has besides if it is a member there; among the others it has no more
    /// than its groups have, so the others have no more than each named group.
    #[must_use]
    pub fn mode(&self, uid: u32, gid: u32) -> u16 {
        let users = self.named_least(uid);
        let group = self.group_permissions() & users;
        let groups = self.masked_groups().filter(|(group, _)| *group != gid);
        let other = groups.fold(self.other & users, |least, (_, permissions)| least & permissions);
        self.owner << 6 | group << 3 | other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(group: u16, other: u16, mask: u16, users: &[(u32, u16)], groups: &[(u32, u16)]) -> Acl {
        let (users, groups) = (users.iter().copied().collect(), groups.iter().copied().collect());
        Acl { owner: 6, users, group, groups, mask: Some(mask), other }
    }

    #[test]
    fn a_list_comes_back_from_its_bytes_and_damaged_ones_are_none() {
        let list = acl(4, 0, 4, &[(1000, 6), (7, 0)], &[(20, 4)]);
        let bytes = list.to_bytes();
        assert_eq!(Acl::parse(&bytes), Some(list));
        for bad in [&bytes[..3], &bytes[..bytes.len() - 1], &[1, 0, 0, 0], &[2, 0, 0, 0, 0x40, 0, 4, 0, 0, 0, 0, 0]] {
            assert_eq!(Acl::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_bits_allow_no_one_more_than_the_list() {
        for (list, mode) in [
            (acl(0, 0, 4, &[(7, 4)], &[]), 0o600),
            (acl(4, 0, 4, &[(7, 4)], &[]), 0o640),
            (acl(4, 4, 4, &[(7, 0)], &[]), 0o600),
            // What the mask denies a named user.
            (acl(4, 4, 0, &[(7, 4)], &[]), 0o600),
            (acl(6, 4, 7, &[], &[(30, 0)]), 0o660),
            (acl(6, 4, 7, &[], &[(20, 0)]), 0o664),
            // The owner and root are not ruled by entries that name them.
            (acl(4, 4, 4, &[(1, 0), (0, 0)], &[]), 0o644),
        ] {
            assert_eq!(list.mode(1, 20), mode, "{list:?}");
        }
        assert_eq!(Acl::of_mode(0o751).mode(1, 20), 0o751);
    }

    /// What acl(5) gives a user, against the bits, for all small lists.
    #[test]
    fn no_user_of_any_list_is_given_more_by_the_bits() {
        let (uid, gid) = (1, 20);
        for bits in 0..1_u32 << 7 {
            let on = |at: u32| if bits >> at & 1 == 1 { 4 } else { 0 };
            let list = acl(on(0), on(1), on(2), &[(2, on(3)), (3, on(4))], &[(20, on(5)), (30, on(6))]);
            let mode = list.mode(uid, gid);
            for user in [1, 2, 3, 4] {
                for groups in [&[][..], &[20], &[30], &[20, 30]] {
                    let shown = match user {
                        1 => mode >> 6,
                        _ if groups.contains(&gid) => mode >> 3,
                        _ => mode,
                    };
                    let matching: Vec<u16> = [(gid, list.group)]
                        .into_iter()
                        .chain(list.groups.iter().map(|(&g, &p)| (g, p)))
                        .filter(|(group, _)| groups.contains(group))
                        .map(|(_, permissions)| permissions & list.mask.unwrap())
                        .collect();
                    let given = match list.users.get(&user) {
                        _ if user == uid => list.owner,
                        Some(permissions) => permissions & list.mask.unwrap(),
                        None if !matching.is_empty() => matching.iter().fold(0, |any, of| any | of),
                        None => list.other,
                    };
                    assert_eq!(shown & 4 & !given, 0, "{list:?} gives user {user} of {groups:?} less than {mode:o}");
                }
            }
        }
    }
}
