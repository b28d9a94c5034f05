//! `bsfs unmount`

use std::path::PathBuf;
use std::process::ExitCode;

use bsfs::mount::{self, Unmounted};
use bsfs::{Error, Result};
use clap::Args;

use super::out;

/// Unmount
///
/// Returns when the mount is gone and its process has ended. While files under it are open or mapped, or a shell
/// stands in it, this fails and says who that is.
#[derive(Debug, Args)]
pub struct UnmountArgs {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    pub mount_point: PathBuf,
    /// Detach it although it is in use: open files can be read until they are closed, then its process ends
    #[arg(short, long)]
    pub lazy: bool,
}

/// Unmounts.
pub fn run(args: &UnmountArgs) -> Result<ExitCode> {
    let failed = |source| Error::Io { op: "resolve", path: args.mount_point.clone(), source };
    let mount_point = std::path::absolute(&args.mount_point).map_err(failed)?;
    // This process may have been started below the mount point, and would keep it busy itself.
    std::env::set_current_dir("/").map_err(failed)?;
    let said = match mount::unmount(&mount_point, args.lazy)? {
        Unmounted::Done => None,
        Unmounted::WasDead => Some("its process had ended before; the mount has been removed".to_owned()),
        Unmounted::Lingers(pid) => Some(format!("detached; process {pid} goes on until the last open file is closed")),
    };
    if let Some(said) = said {
        out::say(&format!("{}: {said}", args.mount_point.display()));
    }
    Ok(ExitCode::SUCCESS)
}
