#!/bin/sh
# Puts a compiler for Kotlin or Swift into .phones/, without root, for tests/examples/test_phones.py.
#
#   tools/phone_compilers.sh kotlin    from npm, 90 MB; it runs on Java 11 or newer
#   tools/phone_compilers.sh swift     from Debian 13 for amd64, a download of 480 MB; it runs on Debian 12 too
set -eu

cd "$(dirname "$0")/.."
folder=.phones/$1
rm -rf "$folder"
mkdir -p "$folder"

if [ "$1" = kotlin ]; then
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$folder" kotlin-compiler@2.4.20
elif [ "$(dpkg --print-architecture)" = amd64 ]; then
    # Apt gets lists and a cache of its own, so that the packages of the system stay as they are.
    apt=$(mktemp -d)
    trap 'rm -rf "$apt"' EXIT
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
    mirror=$(apt-get indextargets --format '$(SITE)' 'Origin: Debian' | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/sources.list"
    own="-qq -o Dir::Etc::sourcelist=$apt/sources.list -o Dir::Etc::sourceparts=/dev/null
        -o Dir::State::lists=$apt/lists -o Dir::Cache=$apt/cache -o APT::Sandbox::User="
    apt-get $own update
    (cd "$apt/packages" && apt-get $own download swiftlang libswiftlang libc6 libc6-dev linux-libc-dev libgcc-s1 \
        libgcc-14-dev libstdc++6 libtinfo6 libuuid1 libxml2 libicu76 liblzma5 libzstd1 zlib1g)
    swift=./usr/libexec/swift
    for package in "$apt"/packages/*.deb; do
        case $package in
        */swiftlang_*) parts="$swift/bin/swift-frontend $swift/bin/lld $swift/lib/clang $swift/lib/swift/clang
            $swift/lib/swift/linux $swift/lib/swift/shims" ;;
        *) parts=./usr ;;
        esac
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder" --exclude './usr/share/*' $parts
    done
else
    echo "tests/examples/test_phones.py uses the Swift compiler of Debian for amd64 only" >&2
    exit 1
fi
touch "$folder/ready"
