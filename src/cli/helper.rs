//! Options of mount tables: `bsfs mount -o LIST`, and `mount.bsfs`, which mount(8) runs for `mount -t bsfs` and for lines
//! of /etc/fstab, as command lines of `bsfs mount`.
//!
//! mount(8) runs `mount.bsfs SOURCE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-t TYPE] [-o OPTIONS]`; for the type `fuse.bsfs` the helper
//! of FUSE runs `bsfs SOURCE MOUNTPOINT -o OPTIONS`. Both become `bsfs mount`, with the options of the mount table translated.
//! What mount(8) and libfuse have for all file systems is accepted; what is unknown to all of them is an error.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use bsfs::mount::Generic;
use bsfs::{Error, Result};

/// The name that this program has when it is to act as the helper.
const NAME: &str = "mount.bsfs";
/// How a helper of mount(8) ends when nothing was mounted.
pub const NOT_MOUNTED: u8 = 32;

/// Generic options that have an effect here. They stay behind `-o`, one at a time.
const EFFECTIVE: &[&str] = &["noexec", "nosymfollow", "fsname", "context", "fscontext", "defcontext", "rootcontext"];

/// Generic options of mount(8) without a meaning here: what mount(8) does itself, and what is so or changes nothing on
/// a mount that is read-only, nosuid and nodev in any case.
const IGNORED: &str = "defaults rw ro auto noauto nofail _netdev user nouser users nousers owner noowner group nogroup suid nosuid \
    dev nodev exec symfollow async sync dirsync atime noatime relatime norelatime strictatime nostrictatime \
    nodiratime diratime lazytime nolazytime iversion noiversion mand nomand silent loud quiet comment private \
    rprivate slave rslave shared rshared unbindable runbindable loop helper uhelper";

/// Options of libfuse and its mount helper that tune what bsfs tunes by itself, or that are so in any case.
const IGNORED_OF_FUSE: &str = "default_permissions nonempty subtype max_read max_readahead max_write congestion_threshold async_read \
    sync_read async_dio sync_dio big_writes large_read atomic_o_trunc kernel_cache auto_cache noauto_cache \
    ac_attr_timeout attr_timeout entry_timeout negative_timeout intr intr_signal hard_remove use_ino readdir_ino \
    noforget remember no_remote_lock no_remote_posix_lock no_remote_flock splice_read no_splice_read splice_write \
    no_splice_write splice_move no_splice_move clone_fd max_idle_threads max_threads rootmode user_id group_id \
    blksize";

/// Generic options that promise what a mount of ours does not do, and what it does.
const NOT_DONE: &[(&str, &str)] = &[
    ("allow_root", "only the user who mounts is let in; allow_other lets all users in, root among them"),
    ("auto_unmount", "the mount of a process that has died is cleared away by the next mount, or by 'bsfs unmount'"),
    ("uid", "owners are those of the source"),
    ("gid", "groups are those of the source"),
    ("umask", "permissions are those of the source"),
    ("debug", "BSFS_LOG=debug, or 'bsfs remount --log-level debug', has the log say more"),
    ("direct_io", "the page cache is used; open files with O_DIRECT to go round it"),
    ("blkdev", "a directory is shown, not a block device"),
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
    ("timeout", true),
    ("patience", true),
    ("base", true),
    ("follow", true),
];

/// Those of "remount".
const LIVE: &[&str] = &["memory", "cache-size", "readahead", "ttl", "log-level"];

/// Whether this process was run as the helper of mount(8).
pub fn is_called(given: &[OsString]) -> bool {
    given.first().is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(NAME)))
}

/// The arguments of this process, in which options of mount tables have become options of ours; `None` when there is
/// nothing to do.
///
/// # Errors
/// [`Error::Invalid`] for an option that is not known, unless the caller says that it does not matter.
pub fn arguments(given: Vec<OsString>) -> Result<Option<Vec<OsString>>> {
    // A source is no verb, and no verb has its first option third.
    let is_fuse = given.len() == 5 && given.get(3).is_some_and(|word| word == "-o") && looks_like_path(given.get(1));
    if !is_called(&given) && !is_fuse {
        // A daemon gets each option as it is meant.
        let [verb, first] = [1, 2].map(|at| given.get(at).map(OsString::as_os_str));
        let lists = verb == Some(OsStr::new("mount")) && first != Some(OsStr::new("--daemon"));
        return if lists { expand(given).map(Some) } else { Ok(Some(given)) };
    }
    let (mut places, mut options) = (Vec::new(), Vec::new());
    let (mut sloppy, mut fake) = (false, false);
    let mut words = given.into_iter().skip(1);
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"-t" | b"-N" => drop(words.next()),
            [b'-', flags @ ..] if !flags.is_empty() => {
                for (at, flag) in flags.iter().enumerate() {
                    match flag {
                        b'o' => {
                            let list = flags.get(at + 1..).filter(|list| !list.is_empty());
                            options
                                .extend(list.map(|list| OsStr::from_bytes(list).to_owned()).or_else(|| words.next()));
                            break;
                        }
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
    let options: Vec<OsString> = options.iter().flat_map(|list| split(list)).collect();
    if options.iter().any(|option| option == "remount") {
        return Ok((!fake).then(|| remount(&options, mount_point)));
    }
    let mut arguments: Vec<OsString> = vec!["bsfs".into(), "mount".into()];
    for option in &options {
        translate(option, sloppy, &mut arguments)?;
    }
    keep_last(&mut arguments);
    arguments.extend(["--".into(), source, mount_point]);
    Ok((!fake).then_some(arguments))
}

/// A command line of `bsfs mount`, in which lists behind `-o` have become options of ours.
///
/// # Errors
/// [`Error::Invalid`] for an option that is not known.
pub fn expand(given: Vec<OsString>) -> Result<Vec<OsString>> {
    let (mut arguments, mut expanded) = (Vec::new(), false);
    let mut words = given.into_iter();
    while let Some(word) = words.next() {
        let list = match word.as_bytes() {
            b"--" => {
                arguments.push(word);
                break;
            }
            b"-o" => words.next(),
            // Short options may share a dash.
            b"-fo" => {
                arguments.push("-f".into());
                words.next()
            }
            [b'-', b'o', list @ ..] => Some(OsStr::from_bytes(list.strip_prefix(b"=").unwrap_or(list)).to_owned()),
            _ => {
                arguments.push(word);
                continue;
            }
        };
        let list = list.ok_or_else(|| Error::invalid("-o takes a list of options"))?;
        expanded = true;
        for option in split(&list) {
            if option == "rw" {
                super::out::say("mounted read-only: what is compressed cannot be written to");
            }
            translate(&option, false, &mut arguments)?;
        }
    }
    if expanded {
        keep_last(&mut arguments);
    }
    arguments.extend(words);
    Ok(arguments)
}

/// The options of a list. Commas stand between them, but for those in double quotes, as security contexts have them, and
/// those behind a backslash, which is taken off.
fn split(list: &OsStr) -> Vec<OsString> {
    let (mut options, mut option, mut quoted) = (Vec::new(), Vec::new(), false);
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if matches!(bytes.peek(), Some(b',' | b'\\')) => option.extend(bytes.next()),
            b',' if !quoted => options.push(OsString::from_vec(std::mem::take(&mut option))),
            b'"' => {
                quoted = !quoted;
                option.push(byte);
            }
            _ => option.push(byte),
        }
    }
    options.push(OsString::from_vec(option));
    options
}

/// `mount -o remount`: what can change does, and the rest, which mount(8) repeats from the table, is as it was.
fn remount(options: &[OsString], mount_point: OsString) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["bsfs".into(), "remount".into()];
    for option in options.iter().map(|option| option.as_bytes()) {
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
/// places to follow links into there may be several. An option whose value is the next word stays.
fn keep_last(arguments: &mut Vec<OsString>) {
    let name = |word: &OsString| {
        let (name, value) = match word.as_bytes().iter().position(|&byte| byte == b'=') {
            Some(at) => (word.as_bytes().get(..at)?, true),
            None => (word.as_bytes(), false),
        };
        let long = std::str::from_utf8(name).ok()?.strip_prefix("--")?;
        let ours = OURS.contains(&(long, value)) || (value && LIVE.contains(&long));
        (ours && !matches!(long, "base" | "follow")).then(|| long.to_owned())
    };
    let names: Vec<Option<String>> = arguments.iter().map(name).collect();
    let mut at = 0;
    arguments.retain(|_| {
        at += 1;
        let this = names.get(at - 1).and_then(Option::as_ref);
        this.is_none_or(|this| !names.get(at..).unwrap_or_default().iter().flatten().any(|later| later == this))
    });
}

/// What generic options mean, each of which is one of those that have an effect.
///
/// # Errors
/// [`Error::Invalid`] for another, or for one whose value is missing.
pub fn generic(options: &[OsString]) -> Result<Generic> {
    let mut generic = Generic::default();
    for option in options {
        let bytes = option.as_bytes();
        let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
            Some(at) => (bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..)),
            None => (bytes, None),
        };
        match (name, value) {
            (b"noexec", None) => generic.noexec = true,
            (b"nosymfollow", None) => generic.nosymfollow = true,
            (b"fsname", Some(b"")) => return Err(Error::invalid("mount option 'fsname' takes a value: fsname=…")),
            (b"fsname", Some(value)) => generic.name = Some(OsStr::from_bytes(value).to_owned()),
            (b"context" | b"fscontext" | b"defcontext" | b"rootcontext", Some(_)) => {
                generic.contexts.push(option.clone())
            }
            _ => return Err(unknown(option)),
        }
    }
    Ok(generic)
}

fn unknown(option: &OsStr) -> Error {
    let ours: Vec<String> = OURS.iter().map(|(name, _)| name.replace('-', "_")).collect();
    let text = format!("unknown mount option '{}'; those of bsfs are {}", option.display(), ours.join(", "));
    Error::invalid(text)
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
    let is_comment = name.starts_with("x-") || name.starts_with("X-") || name.is_empty();
    if is_comment || IGNORED.split(' ').chain(IGNORED_OF_FUSE.split(' ')).any(|ignored| ignored == name) {
        return Ok(());
    }
    if EFFECTIVE.contains(&&*name) {
        arguments.extend(["-o".into(), option.to_owned()]);
        return Ok(());
    }
    if let Some((_, instead)) = NOT_DONE.iter().find(|(option, _)| *option == name) {
        super::out::say(&format!("the mount option {name} has no effect: {instead}"));
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
        (None, _) => return Err(unknown(option)),
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
    fn generic_options_of_mount_and_of_libfuse_are_accepted() {
        for options in [
            IGNORED.replace(' ', ","),
            IGNORED_OF_FUSE.replace(' ', "=1,"),
            "user=me,uid=5,allow_root,X-mount.mkdir".into(),
        ] {
            let got = of(&["mount.bsfs", "/a", "/b", "-o", &options]).unwrap().unwrap();
            assert_eq!(got.join(" "), "bsfs mount -- /a /b");
        }
        let options = r#"rw,noexec,context="a_u:b_r:c_t:s0:c1,c2",nosymfollow,cache_dir=/x\,y,fsname=a\\b"#;
        let got = of(&["mount.bsfs", "/a", "/b", "-o", options]).unwrap().unwrap();
        let expected = [
            "bsfs",
            "mount",
            "-o",
            "noexec",
            "-o",
            r#"context="a_u:b_r:c_t:s0:c1,c2""#,
            "-o",
            "nosymfollow",
            "--cache-dir=/x,y",
            "-o",
            r"fsname=a\b",
            "--",
            "/a",
            "/b",
        ];
        assert_eq!(got, expected);
    }

    #[test]
    fn the_command_takes_such_lists_too() {
        let got = of(&["bsfs", "mount", "--memory=1G", "-f", "-o", "ro,memory=2G,warm", "-onoexec", "/a", "--", "-o"]);
        assert_eq!(got.unwrap().unwrap().join(" "), "bsfs mount -f --memory=2G --warm -o noexec /a -- -o");
        let got = of(&["bsfs", "mount", "-fo", "memory=2G,helper=x,uhelper=y,loop=/dev/loop0", "/a", "/b"]);
        assert_eq!(got.unwrap().unwrap().join(" "), "bsfs mount -f --memory=2G /a /b");
        for flags in [&["-no", "memory=2G"][..], &["-nomemory=2G"]] {
            let got = of(&[&["mount.bsfs", "/a", "/b"], flags].concat());
            assert_eq!(got.unwrap().unwrap().join(" "), "bsfs mount --memory=2G -- /a /b");
        }
        assert!(generic(&["fsname=".into()]).is_err());
        assert!(of(&["bsfs", "mount", "/a", "/b", "-o"]).is_err());
        assert!(of(&["bsfs", "mount", "-o", "nonsense", "/a", "/b"]).is_err());
    }

    #[test]
    fn what_is_not_known_is_refused_and_commands_stay() {
        for (options, said) in [
            ("nonsense", "unknown mount option 'nonsense'"),
            ("memory", "takes a value"),
            ("warm=1", "takes no value"),
            ("null", "unknown"),
            ("foreground", "unknown"),
        ] {
            let error = of(&["mount.bsfs", "/a", "/b", "-o", options]).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(of(&["mount.bsfs", "/a", "/b", "-s", "-o", "nonsense"]).is_ok(), "sloppy");
        assert!(of(&["mount.bsfs", "/a"]).is_err() && of(&["mount.bsfs", "/a", "/b", "-x"]).is_err());
        for words in [&["bsfs", "mount", "/a", "/b"][..], &["bsfs", "compress", "m", "-o", "/x"], &["bsfs"], &[]] {
            assert_eq!(of(words).unwrap().unwrap(), words);
        }
    }
}
