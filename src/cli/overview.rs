//! The first screen of the help, with the verbs in groups, and the examples of each verb.

use clap::Command;

/// Headings of the first screen and the verbs below each.
const GROUPS: &[(&str, &[&str])] = &[
    ("Everyday", &["compress", "mount", "unmount", "status", "decompress", "estimate", "info", "verify"]),
    ("Hugging Face Hub", &["pull", "push"]),
    ("Setup", &["service", "remount", "cache", "doctor"]),
    ("Advanced", &["migrate", "flatten", "export", "bench", "completions", "man"]),
];

/// Examples, shown at the end of the help of a verb.
const EXAMPLES: &[(&str, &[&str])] = &[
    (
        "compress",
        &[
            "bsfs compress my-model -o my-model.packed",
            "bsfs compress model.safetensors",
            "bsfs compress ~/.cache/huggingface/hub --replace",
            "bsfs compress fine-tune --base base-model -o fine-tune.packed",
        ],
    ),
    (
        "mount",
        &[
            "bsfs mount my-model.packed /mnt/my-model",
            "bsfs mount ~/.cache/huggingface/hub ~/.cache/huggingface/hub",
            "bsfs mount s3://bucket/models /mnt/models --memory 2G",
        ],
    ),
    ("unmount", &["bsfs unmount /mnt/my-model", "bsfs unmount --lazy /mnt/my-model"]),
    ("status", &["bsfs status", "bsfs status --watch", "bsfs status --check /mnt/my-model"]),
    (
        "decompress",
        &[
            "bsfs decompress model.safetensors.bs",
            "bsfs decompress my-model.packed -o my-model",
            "bsfs decompress ~/.cache/huggingface/hub --replace",
        ],
    ),
    ("estimate", &["bsfs estimate my-model"]),
    ("info", &["bsfs info model.safetensors.bs", "bsfs info --tensors model.safetensors.bs"]),
    ("verify", &["bsfs verify my-model.packed", "bsfs verify model.safetensors.bs --source model.safetensors"]),
    ("pull", &["bsfs pull hf://org/name", "bsfs pull hf://org/name --include '*.safetensors'"]),
    ("push", &["bsfs push my-model.packed org/name --create"]),
    ("service", &["bsfs service install /srv/models /srv/models -- --memory 1G", "bsfs service list"]),
    ("remount", &["bsfs remount /mnt/my-model --memory 2G"]),
    ("cache", &["bsfs cache stats", "bsfs cache prune --size 20G", "bsfs cache clear"]),
    ("doctor", &["bsfs doctor"]),
    ("migrate", &["bsfs migrate model.bs", "bsfs migrate repository -o repository.packed"]),
    ("flatten", &["bsfs flatten fine-tune.safetensors.bs -o alone.safetensors.bs"]),
    ("export", &["bsfs export --format bigsmall model.safetensors -o model.bs"]),
    ("bench", &["bsfs bench model.safetensors", "bsfs bench model.safetensors --mode storage"]),
    ("completions", &["bsfs completions bash > ~/.local/share/bash-completion/completions/bsfs"]),
    ("man", &["bsfs man /usr/local/share/man/man1"]),
];

/// Adds the first screen, and the examples.
pub fn complete(mut command: Command) -> Command {
    for (verb, lines) in EXAMPLES.iter().filter(|(verb, _)| is_there(verb)) {
        let text = lines.iter().fold("Examples:".to_owned(), |text, line| text + "\n  " + line);
        command = command.mut_subcommand(verb, |verb| verb.after_help(text));
    }
    let mut screen = "{about-with-newline}\nUsage: bsfs <COMMAND>\n".to_owned();
    for (heading, verbs) in GROUPS {
        let row = |verb: &&str| {
            let about = command.find_subcommand(verb)?.get_about()?;
            Some(format!("  {verb:<12} {about}\n"))
        };
        let rows: String = verbs.iter().filter_map(row).collect();
        if !rows.is_empty() {
            screen += &format!("\n{heading}:\n{rows}");
        }
    }
    command.help_template(screen + "\nOptions:\n{options}{after-help}")
}

/// Verbs of features, and whether this build has them.
const OPTIONAL: [(&[&str], bool); 2] = [
    (&["pull", "push"], cfg!(feature = "hub")),
    (&["mount", "unmount", "status", "service", "remount", "doctor"], cfg!(feature = "mount")),
];

/// Whether this build has a verb.
fn is_there(verb: &str) -> bool {
    OPTIONAL.iter().all(|(verbs, there)| *there || !verbs.contains(&verb))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_verb_is_on_the_first_screen_and_has_examples_that_parse() {
        let command = complete(Cli::command());
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, verbs)| verbs.iter().copied()).collect();
        listed.retain(|verb| is_there(verb));
        let mut verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        listed.sort_unstable();
        verbs.sort_unstable();
        assert_eq!(listed, verbs);
        for verb in verbs {
            let examples = EXAMPLES.iter().find(|(name, _)| *name == verb).map(|(_, lines)| *lines).unwrap();
            for example in examples {
                let words = example.split(" > ").next().unwrap().split_whitespace().map(|word| word.trim_matches('\''));
                let parsed = command.clone().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn no_line_of_the_help_is_longer_than_80_columns() {
        fn check(command: &mut Command, path: &str) {
            for line in command.render_long_help().to_string().lines() {
                assert!(line.chars().count() <= 80, "{path}: {line}");
            }
            let below: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
            for verb in below {
                check(command.find_subcommand_mut(&verb).unwrap(), &format!("{path} {verb}"));
            }
        }
        let mut command = complete(Cli::command());
        command.build();
        check(&mut command, "bsfs");
    }
}
