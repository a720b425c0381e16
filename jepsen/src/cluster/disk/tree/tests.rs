use super::*;

fn empty_file() -> Inode {
    Inode::File { contents: Contents::default(), opens: 0 }
}

fn tree() -> Tree {
    Tree::new(1 << 20)
}

fn name(text: &str) -> OsString {
    OsString::from(text)
}

/// Makes a file with a content that is durable, though its name may not be.
fn make(tree: &mut Tree, directory: u64, text: &str) -> u64 {
    let number = tree.make(directory, &name(text), empty_file()).expect("it is new");
    tree.write(number, text.as_bytes(), 0).expect("there is space");
    tree.contents(number).expect("a file").sync();
    number
}

/// The names below a directory, and what the files hold.
fn listing(tree: &mut Tree, directory: u64) -> Vec<String> {
    let entries: Vec<(OsString, u64)> =
        tree.entries(directory).into_iter().map(|(name, inode)| (name.to_owned(), inode)).collect();
    let mut listed = Vec::new();
    for (name, inode) in entries {
        let name = name.to_string_lossy().into_owned();
        match tree.contents(inode) {
            Ok(contents) => {
                let text = String::from_utf8_lossy(contents.read(0, 100)).into_owned();
                listed.push(format!("{name}={text}"));
            }
            Err(_) => {
                let inside = listing(tree, inode);
                listed.extend(inside.iter().map(|inner| format!("{name}/{inner}")));
            }
        }
    }
    listed
}

fn cut(tree: &mut Tree, keep: Keep, seed: u64) -> Vec<String> {
    tree.cut(keep, &mut Rng::with_seed(seed));
    listing(tree, ROOT)
}

#[test]
fn a_name_is_durable_once_its_directory_is_synced() {
    let mut disk = tree();
    make(&mut disk, ROOT, "a");
    assert_eq!(cut(&mut disk, Keep::Nothing, 1), Vec::<String>::new());
    make(&mut disk, ROOT, "a");
    disk.sync_directory(ROOT);
    make(&mut disk, ROOT, "b");
    disk.remove(ROOT, &name("a"), false).expect("it is there");
    assert_eq!(cut(&mut disk, Keep::Nothing, 1), ["a=a"]);
    disk.remove(ROOT, &name("a"), false).expect("it is there");
    assert_eq!(cut(&mut disk, Keep::All, 1), Vec::<String>::new());
}

#[test]
fn a_rename_is_kept_wholly_or_not_at_all() {
    let mut seen = BTreeSet::new();
    for seed in 0..30 {
        let mut disk = tree();
        make(&mut disk, ROOT, "old");
        disk.sync_directory(ROOT);
        make(&mut disk, ROOT, "new");
        disk.rename((ROOT, name("new")), (ROOT, name("old"))).expect("both are there");
        seen.insert(cut(&mut disk, Keep::Some, seed));
    }
    let both = vec!["new=new".to_owned(), "old=old".to_owned()];
    assert_eq!(seen, BTreeSet::from([vec!["old=old".into()], vec!["old=new".into()], both]));
}

#[test]
fn what_lies_in_a_directory_that_is_lost_is_lost_and_nothing_moves_into_it() {
    for seed in 0..30 {
        let mut disk = tree();
        make(&mut disk, ROOT, "a");
        disk.sync_directory(ROOT);
        let directory = disk.make(ROOT, &name("d"), Inode::Directory).expect("it is new");
        disk.rename((ROOT, name("a")), (directory, name("a"))).expect("it is there");
        let after = cut(&mut disk, Keep::Some, seed);
        assert!(after == ["a=a"] || after == ["d/a=a"], "{after:?}");
    }
}

#[test]
fn a_sync_takes_along_what_its_names_build_upon() {
    let mut disk = tree();
    let directory = disk.make(ROOT, &name("d"), Inode::Directory).expect("it is new");
    disk.sync_directory(ROOT);
    make(&mut disk, ROOT, "a");
    disk.rename((ROOT, name("a")), (directory, name("b"))).expect("it is there");
    make(&mut disk, ROOT, "c");
    disk.sync_directory(directory);
    assert_eq!(cut(&mut disk, Keep::Nothing, 1), ["d/b=a"]);
}

#[test]
fn an_open_file_lives_on_without_a_name_until_the_power_goes() {
    let mut disk = tree();
    let number = make(&mut disk, ROOT, "a");
    disk.sync_directory(ROOT);
    disk.open(number).expect("a file");
    disk.remove(ROOT, &name("a"), false).expect("it is there");
    disk.sync_directory(ROOT);
    assert_eq!(disk.contents(number).expect("it is open").read(0, 9), b"a");
    disk.release(number);
    assert!(disk.contents(number).is_err());
    let number = make(&mut disk, ROOT, "b");
    disk.open(number).expect("a file");
    disk.sync_directory(ROOT);
    disk.cut(Keep::All, &mut Rng::with_seed(1));
    assert!(disk.contents(number).is_err(), "who held it open holds nothing any more");
}

#[test]
fn links_share_a_file_and_a_disk_has_an_end() {
    let mut disk = Tree::new(8_000);
    let number = make(&mut disk, ROOT, "a");
    disk.link(number, ROOT, &name("b")).expect("b is new");
    assert_eq!(disk.links(number), 2);
    disk.write(number, &[b'x'; 5_000], 0).expect("there is space");
    assert_eq!(disk.write(number, &[b'x'; 5_000], 5_000), Err(Errno::ENOSPC));
    disk.remove(ROOT, &name("a"), false).expect("it is there");
    assert_eq!(disk.contents(number).expect("a link is left").length(), 5_000);
    disk.set_length(number, 10).expect("shorter");
    disk.write(number, &[b'x'; 5_000], 0).expect("there is space again");
    let directory = disk.make(ROOT, &name("d"), Inode::Directory).expect("it is new");
    make(&mut disk, directory, "c");
    assert_eq!(disk.remove(ROOT, &name("d"), true), Err(Errno::ENOTEMPTY));
    assert_eq!(disk.remove(ROOT, &name("d"), false), Err(Errno::EISDIR));
    assert_eq!(disk.make(ROOT, &name("d"), empty_file()), Err(Errno::EEXIST));
}
