//! `mount.bsfs`: what mount(8) runs for `mount -t bsfs` and for lines of /etc/fstab, as a command line of ours.
//!
//! mount(8) runs `mount.bsfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`; for the type `fuse.bsfs` the helper
//! of FUSE runs `bsfs SOURCE MOUNTPOINT -o OPTIONS`. Both become `bsfs mount`, with the options of the mount table translated.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bsfs::{Error, Result};

/// The name that this program has when it is to act as the helper.
const NAME: &str = "mount.bsfs";

/// Options without a meaning here: what mount(8) itself understands or adds, and what is so or does nothing on a mount that is
/// read-only, nosuid and nodev in any case.
const IGNORED: &[&str] = &[
    "defaults",
    "rw",
    "ro",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "group",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "async",
    "sync",
    "dirsync",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nodiratime",
    "diratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "silent",
    "loud",
    "default_permissions",
];

/// Options of ours, and whether they take a value.
const OURS: &[(&str, bool)] = &[
    ("allow-other", false),
    ("warm", false),
    ("download", false),
    ("keep-packed", false),
    ("memory", true),
    ("cache", true),
    ("cache-dir", true),
    ("cache-size", true),
    ("readahead", true),
    ("threads", true),
    ("session-threads", true),
    ("max-background", true),
    ("ttl", true),
    ("log-file", true),
    ("log-format", true),
    ("metrics-file", true),
    ("metrics-listen", true),
    ("timeout", true),
    ("patience", true),
    ("base", true),
    ("follow", true),
];

/// Those of "remount".
const LIVE: &[&str] = &["memory", "cache-size", "readahead", "ttl", "log-level"];

/// The arguments of this process, translated if it was run as a helper of mount(8); `None` when there is nothing to do.
///
/// # Errors
/// [`Error::Invalid`] for an option that is not known, unless the caller says that it does not matter.
pub fn arguments(given: Vec<OsString>) -> Result<Option<Vec<OsString>>> {
    let is_helper = given.first().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(NAME)));
    // A source is no verb, and no verb has its first option third.
    let is_fuse = given.len() == 5 && given.get(3).is_some_and(|word| word == "-o") && looks_like_path(given.get(1));
    if !is_helper && !is_fuse {
        return Ok(Some(given));
    }
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let (mut sloppy, mut fake) = (false, false);
    let mut words = given.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-o" => options.extend(words.next()),
            b"-t" | b"-N" => drop(words.next()),
            [b'-', flags @ ..] if !flags.is_empty() => {
                for flag in flags {
                    match flag {
                        b's' => sloppy = true,
                        b'f' => fake = true,
                        b'n' | b'v' => {}
                        _ => return Err(usage(&format!("unknown option {}", word.display()))),
                    }
                }
            }
            _ => places.push(word),
        }
    }
    let [source, mount_point]: [OsString; 2] =
        places.try_into().map_err(|_| usage("expected what to mount and where"))?;
    let words = || options.iter().flat_map(|list| list.as_bytes().split(|&byte| byte == b','));
    if words().any(|option| option == b"remount") {
        return Ok((!fake).then(|| remount(words(), mount_point)));
    }
    let mut arguments: Vec<OsString> = vec!["bsfs".into(), "mount".into()];
    for option in words() {
        translate(OsStr::from_bytes(option), sloppy, &mut arguments)?;
    }
    keep_last(&mut arguments);
    arguments.extend(["--".into(), source, mount_point]);
    Ok((!fake).then_some(arguments))
}

/// `mount -o remount`: what can change does, and the rest, which mount(8) repeats from the table, is as it was.
fn remount<'a>(options: impl Iterator<Item = &'a [u8]>, mount_point: OsString) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["bsfs".into(), "remount".into()];
    for option in options {
        let Some(at) = option.iter().position(|&byte| byte == b'=') else { continue };
        let (Some(name), Some(value)) = (option.get(..at), option.get(at + 1..)) else { continue };
        let long = String::from_utf8_lossy(name).replace('_', "-");
        if LIVE.contains(&&*long) {
            let mut argument = OsString::from(format!("--{long}="));
            argument.push(OsStr::from_bytes(value));
            arguments.push(argument);
        }
    }
    keep_last(&mut arguments);
    arguments.extend(["--".into(), mount_point]);
    arguments
}

/// Of options that are there twice the last counts: mount(8) puts those of its command line behind those of the table. Of bases and
/// places to follow links into there may be several.
fn keep_last(arguments: &mut Vec<OsString>) {
    let name = |word: &OsString| word.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default().to_vec();
    let names: Vec<_> = arguments.iter().map(name).collect();
    let mut at = 0;
    arguments.retain(|_| {
        at += 1;
        let (Some(this), later) = (names.get(at - 1), names.get(at..).unwrap_or_default()) else { return true };
        !this.starts_with(b"--") || this == b"--base" || this == b"--follow" || !later.contains(this)
    });
}

fn looks_like_path(word: Option<&OsString>) -> bool {
    word.is_some_and(|word| word.as_bytes().contains(&b'/'))
}

fn usage(what: &str) -> Error {
    Error::invalid(format!("{what}; usage: {NAME} SOURCE MOUNTPOINT [-sfnv] [-o OPTIONS]"))
}

/// Appends what an option of a mount table means.
fn translate(option: &OsStr, sloppy: bool, arguments: &mut Vec<OsString>) -> Result<()> {
    let bytes = option.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
        None => (bytes, None),
    };
    let name = String::from_utf8_lossy(name);
    let is_comment = name.starts_with("x-") || name.starts_with("X-") || name == "comment" || name.is_empty();
    if is_comment || (value.is_none() && IGNORED.contains(&&*name)) {
        return Ok(());
    }
    let long = name.replace('_', "-");
    match (OURS.iter().find(|(ours, _)| *ours == long), value) {
        (Some((_, true)), Some(value)) => {
            let mut argument = OsString::from(format!("--{long}="));
            argument.push(OsStr::from_bytes(value));
            arguments.push(argument);
        }
        (Some((_, false)), None) => arguments.push(format!("--{long}").into()),
        (Some((_, true)), None) => {
            return Err(Error::invalid(format!("mount option '{name}' takes a value: {name}=…")));
        }
        (Some((_, false)), Some(_)) => return Err(Error::invalid(format!("mount option '{name}' takes no value"))),
        (None, _) if sloppy => {}
        (None, _) => {
            let ours: Vec<String> = OURS.iter().map(|(name, _)| name.replace('-', "_")).collect();
            let text = format!("unknown mount option '{}'; those of bsfs are {}", option.display(), ours.join(", "));
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Option<Vec<String>>> {
        let given = words.iter().map(OsString::from).collect();
        Ok(arguments(given)?.map(|list| list.into_iter().map(|word| word.into_string().unwrap()).collect()))
    }

    #[test]
    fn a_line_of_fstab_becomes_a_command() {
        let options = "rw,_netdev,nofail,x-systemd.automount,allow_other,memory=1G,cache_dir=/var/a=b,cache-size=2G";
        let got = of(&["/sbin/mount.bsfs", "/models", "/mnt/a b", "-n", "-o", options]).unwrap().unwrap();
        let expected = "bsfs mount --allow-other --memory=1G --cache-dir=/var/a=b --cache-size=2G -- /models /mnt/a b";
        assert_eq!(got.join(" "), expected);
        let got = of(&["bsfs", "/models", "/mnt", "-o", "rw,dev,suid"]).unwrap().unwrap();
        assert_eq!(got.join(" "), "bsfs mount -- /models /mnt");
        assert_eq!(of(&["mount.bsfs", "/a", "/b", "-f"]).unwrap(), None, "only as if");
        let twice = "memory=1G,warm,base=/x,memory=2G,base=/y,warm,follow=/f,follow=/g";
        let got = of(&["mount.bsfs", "/a", "/b", "-o", twice]).unwrap().unwrap();
        assert_eq!(got.join(" "), "bsfs mount --base=/x --memory=2G --base=/y --warm --follow=/f --follow=/g -- /a /b");
        let got =
            of(&["mount.bsfs", "/a", "/b", "-o", "memory=3G,rw,remount,cache=off,allow_other,cache_size=2G,memory=1G"]);
        assert_eq!(got.unwrap().unwrap().join(" "), "bsfs remount --cache-size=2G --memory=1G -- /b");
    }

    #[test]
    fn what_is_not_known_is_refused_and_commands_stay() {
        for (options, said) in [
            ("noexec", "unknown mount option 'noexec'"),
            ("memory", "takes a value"),
            ("warm=1", "takes no value"),
            ("null", "unknown"),
            ("foreground", "unknown"),
        ] {
            let error = of(&["mount.bsfs", "/a", "/b", "-o", options]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(of(&["mount.bsfs", "/a", "/b", "-s", "-o", "noexec"]).is_ok(), "sloppy");
        assert!(of(&["mount.bsfs", "/a"]).is_err() && of(&["mount.bsfs", "/a", "/b", "-x"]).is_err());
        for words in [&["bsfs", "mount", "/a", "/b"][..], &["bsfs", "compress", "m", "-o", "/x"], &["bsfs"], &[]] {
            assert_eq!(of(words).unwrap().unwrap(), words);
        }
    }
}
