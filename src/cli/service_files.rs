//! The files of services: where they are, what is in them, and which are ours.

use std::path::{Path, PathBuf};

use bsfs::{Error, Result};

use super::mount::MountArgs;

/// The first line of what is written here; a file without it is another's, and stays.
pub const OURS: &str = "# Written by \"bsfs service install\"; \"bsfs service remove\" takes it away.\n";

const SYSTEM_UNIT: &str = include_str!("../../scripts/systemd/bsfs@.service");
const USER_UNIT: &str = include_str!("../../scripts/systemd/bsfs-user@.service");
/// Of a unit, in both of them.
pub const UNIT: &str = "bsfs@.service";

/// Where files of services are.
pub struct Places {
    pub configurations: PathBuf,
    /// Where units are looked for; the first is where ours is written.
    pub units: Vec<PathBuf>,
}

impl Places {
    pub fn new(user: bool) -> Result<Self> {
        if !user {
            let units = ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system"];
            return Ok(Self { configurations: "/etc/bsfs".into(), units: units.map(PathBuf::from).into() });
        }
        let absolute = |path: &PathBuf| path.is_absolute();
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(absolute);
        let config = config
            .or_else(|| std::env::home_dir().filter(absolute).map(|home| home.join(".config")))
            .ok_or_else(|| Error::invalid("no place for the service: neither XDG_CONFIG_HOME nor HOME is set"))?;
        let others = ["/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user"];
        let units = [config.join("systemd/user")].into_iter().chain(others.map(PathBuf::from));
        Ok(Self { configurations: config.join("bsfs"), units: units.collect() })
    }

    /// The unit that is there.
    pub fn unit(&self) -> Option<PathBuf> {
        self.units.iter().map(|dir| dir.join(UNIT)).find(|path| path.exists())
    }

    /// The file of the service `name`.
    pub fn configuration(&self, name: &str) -> PathBuf {
        self.configurations.join(format!("{name}.conf"))
    }
}

/// The unit, for the program at `program`.
pub fn unit(user: bool, program: &Path) -> Result<String> {
    let text = if user { USER_UNIT } else { SYSTEM_UNIT };
    let program = plain(program)?;
    let run = |line: &str| match line.split_once(" mount ").filter(|_| line.starts_with("ExecStart=")) {
        Some((_, rest)) => format!("ExecStart={program} mount {rest}\n"),
        None => format!("{line}\n"),
    };
    Ok(OURS.to_owned() + &text.lines().map(run).collect::<String>())
}

/// A path that stands in a unit as it is.
fn plain(path: &Path) -> Result<&str> {
    let fits = |text: &&str| text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+@".contains(c));
    path.to_str()
        .filter(fits)
        .ok_or_else(|| Error::invalid(format!("{}: a unit cannot name a program with such characters", path.display())))
}

/// The file of a service that does `args`, whose options were `options`.
pub fn configuration(args: &MountArgs, options: &[String]) -> Result<String> {
    if let Some(bad) =
        options.iter().find(|option| option.contains(|c: char| c.is_whitespace() || "\"'\\$#".contains(c)))
    {
        return Err(Error::invalid(format!(
            "{bad:?}: systemd splits options at spaces and takes quotes, \\, $ and # itself"
        )));
    }
    let source =
        if args.source.to_string_lossy().contains("://") { args.source.clone() } else { absolute(&args.source)? };
    let (source, mount_point) = (quoted(&source)?, quoted(&absolute(&args.mount_point)?)?);
    Ok(format!("{OURS}SOURCE={source}\nMOUNTPOINT={mount_point}\nOPTIONS=\"{}\"\n", options.join(" ")))
}

pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(Error::io("resolve", path))
}

/// A value as files of environment variables have it.
fn quoted(path: &Path) -> Result<String> {
    let bad = || Error::invalid(format!("{}: a service cannot have such characters in a path", path.display()));
    let text = path.to_str().filter(|text| !text.contains(char::is_control)).ok_or_else(bad)?;
    let mut out = String::from('"');
    for c in text.chars() {
        if "\"\\`$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    Ok(out)
}

/// The value of a name in a file of a service, without quotes; for people.
pub fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let of = |line: &'a str| line.strip_prefix(name)?.strip_prefix('=');
    text.lines().find_map(of).unwrap_or_default().trim_matches('"')
}

/// What a service is called unless somebody says otherwise: the mount point, `/` as `-`.
pub fn name_for(mount_point: &Path) -> String {
    let text = mount_point.to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._".contains(c) { c } else { '-' };
    let name: String = text.trim_matches('/').chars().map(plain).collect();
    if name.is_empty() { "root".to_owned() } else { name }
}

/// Refuses names that systemd would read in another way, or that lead elsewhere.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_good = !name.is_empty() && name.len() <= 200 && name.chars().all(plain) && !name.starts_with(['.', '-']);
    if is_good {
        Ok(())
    } else {
        Err(Error::invalid(format!("{name:?}: expected a name of letters, digits, '.', '_', '-'")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_what_systemd_reads() {
        assert_eq!(name_for(Path::new("/mnt/my models")), "mnt-my-models");
        assert_eq!(name_for(Path::new("/")), "root");
        for bad in ["", "../x", "a/b", ".x", "-x", "a b", "a@b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(quoted(Path::new("/a \"b\"/$c\\`")).unwrap(), "\"/a \\\"b\\\"/\\$c\\\\\\`\"");
        assert!(quoted(Path::new("/a\nb")).is_err());
        assert_eq!(value("# x\nSOURCE=\"/a b\"\n", "SOURCE"), "/a b");
    }

    #[test]
    fn the_unit_runs_this_program() {
        for user in [false, true] {
            let text = unit(user, Path::new("/opt/bsfs/bin/bsfs")).unwrap();
            let wanted = "\nExecStart=/opt/bsfs/bin/bsfs mount --foreground $OPTIONS -- ${SOURCE} ${MOUNTPOINT}\n";
            assert!(text.starts_with(OURS) && text.contains(wanted) && text.contains("\nType=notify\n"), "{text}");
        }
        assert!(unit(false, Path::new("/a b/bsfs")).is_err());
    }
}
