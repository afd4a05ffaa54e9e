#!/usr/bin/env bash
# An agent in plain bash that knows nothing of the station: it keeps an index of the notes in a folder.
# Under `calyx run` it is gated, journaled and can be slowed, paused, stopped and undone; see README.md.
set -euo pipefail

notes=${1:?"usage: agent.sh FOLDER [ROUNDS]"}
rounds=${2:-1}

for ((round = 1; round <= rounds; round++)); do
  {
    echo "# Index"
    for file in "$notes"/*.md; do
      [[ -e $file && $(basename "$file") != INDEX.md ]] || continue
      title=$(sed -n 's/^# //p' "$file" | head -n 1)
      words=$(wc -w < "$file")
      echo "- [${title:-untitled}]($(basename "$file")), $words words"
    done
  } > "$notes/.INDEX.new"
  if ! cmp -s "$notes/.INDEX.new" "$notes/INDEX.md"; then
    mv "$notes/.INDEX.new" "$notes/INDEX.md"
  else
    rm "$notes/.INDEX.new"
  fi
  echo "round $round of $rounds: $(grep -c '^- ' "$notes/INDEX.md") notes"
done
